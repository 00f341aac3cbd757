"""Settings of engines that generate in processes of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ..objectives.fields import setting
from .checks import Bounds

TRANSFORMERS, VLLM = "transformers", "vllm"
"""Values of `engine`: the weights in this process's memory, or vLLM servers of the run's own. See also [`server.SERVER`]."""

AUTO = "auto"
"""Value of `engine` with which a run chooses one of them when it begins, and keeps it."""

AHEAD_OF_START, ALL_AHEAD, NONE_AHEAD = MODELS_AHEAD = ("start", "always", "never")
"""Values of `generate_ahead`: which models answer the training prompts while they are served for their evaluation."""


@dataclass
class EngineSettings:
    """The fields of [`SelfPlayConfig`] on engines that generate in processes of their own.

    Args:
        vllm_command: With `engine: vllm`, the command that starts vLLM, in this environment or in one of its own: a
            path such as /envs/vllm/bin/vllm, or a list with arguments before `serve`.
        vllm_args: With `engine: vllm`, further arguments of `vllm serve`, as a list: ['--enforce-eager']. They replace
            those that the run derives from its settings, except those that it depends on.
        tensor_parallel: With `engine: vllm`, the number of GPUs that each server divides the model among. Every group
            of GPUs gets a server.
        vllm_unquantised_base: With `engine: vllm` and weights that the run quantises (`load_in_4bit`), whether to generate
            with the unquantised base model. Its responses are not quite the opponent's; manifests, report and cards say so.
        generate_ahead: With `engine: vllm`, `engine: server` or `generation_continuous`, which models answer training
            prompts, too, while they are served for their evaluation: only the start, always every model, or never. It saves
            a start of the servers. If the run then stops or falls back, the answers are not used.
        generation_concurrency: With `engine: vllm`, `engine: server` or `generation_continuous`, the number of prompts that
            are worked on at the same time, on all devices together.
        generation_continuous: With `engine: transformers`, generate by continuous batching: a finished response makes room
            for another at once. It runs in processes of its own, one per GPU. The same responses are not generated again.
        generation_timeout: With `engine: vllm` or `server`, seconds after which a prompt without a response is asked again.
    """

    vllm_command: list[str] = field(
        default_factory=lambda: ["vllm"],
        metadata={
            "help": "With `engine: vllm`, the command that starts vLLM, in this environment or in one of its own: a path "
            "such as /envs/vllm/bin/vllm, or a list with arguments before `serve`."
        },
    )
    vllm_args: list[str] | None = setting(
        None,
        "With `engine: vllm`, further arguments of `vllm serve`, as a list: ['--enforce-eager']. They replace "
        "those that the run derives from its settings, except those that it depends on.",
    )
    tensor_parallel: Annotated[int, Bounds(1)] = setting(
        1,
        "With `engine: vllm`, the number of GPUs that each server divides the model among. Every group of GPUs "
        "gets a server.",
    )
    vllm_unquantised_base: bool = setting(
        False,
        "With `engine: vllm` and weights that the run quantises (`load_in_4bit`), whether to generate with the unquantised "
        "base model. Its responses are not quite the opponent's; manifests, report and cards say so.",
    )
    generate_ahead: str = setting(
        AHEAD_OF_START,
        "With `engine: vllm`, `engine: server` or `generation_continuous`, which models answer training prompts, too, while "
        "they are served for their evaluation: only the start, always every model, or never. It saves a start of the "
        "servers. If the run then stops or falls back, the answers are not used.",
        choices=MODELS_AHEAD,
    )
    generation_concurrency: Annotated[int, Bounds(1)] = setting(
        256,
        "With `engine: vllm`, `engine: server` or `generation_continuous`, the number of prompts that are worked on at the "
        "same time, on all devices together.",
    )
    generation_continuous: bool = setting(
        False,
        "With `engine: transformers`, generate by continuous batching: a finished response makes room for another at once. "
        "It runs in processes of its own, one per GPU. The same responses are not generated again.",
    )
    generation_timeout: Annotated[float, Bounds(0, low_open=True)] = setting(
        600.0,
        "With `engine: vllm` or `server`, seconds after which a prompt without a response is asked again.",
    )
