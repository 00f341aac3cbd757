"""The text of a new recipe: its settings, with comments that explain them."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...config.fetched import NO_MODEL
from ...counts import counted
from ...errors import visible
from .look import Machine, SeenData, SeenModel, at_quantile, lengths_in_words

NO_DATA = "DATA.jsonl"
"""Placeholder in a recipe for data that was not named."""

USUAL_LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Values used for `max_length` and `max_new_tokens`."""

USUAL_LENGTH = 1024
"""`max_length` if nothing is known about the data."""

LONG_TAIL = 2.0
"""`max_length` covers the longest row if it is at most this many times the 98 % quantile of the lengths."""

FEW_ROWS = 2000
"""Number of rows below which a larger fraction of the prompts is held out."""

FULL, ADAPTER, FOUR_BITS = "full", "adapter", "4 bits"
"""Which weights are trained: all; an adapter's; an adapter's on 4-bit weights."""

PAIRS_A_STEP = 32

COMMENT_WIDTH = 118
"""Width in columns of comments."""

_OTHER_SETS = (
    "# held_out_name: ...   # a separate dataset for evaluation, instead of a fraction of these prompts",
    "# test_name: ...       # a dataset that the final models are measured on once, and that no decision uses",
    "# retain_name: ...     # a dataset of other tasks, to see at every stage what the model unlearns",
    "# dpo_name: ...        # preference pairs: with `then_dpo: best`, the run ends with DPO on them",
)
"""Datasets that a recipe may name in addition to the training data."""


@dataclass(frozen=True)
class Fit:
    """How a model is trained so that it fits the machine.

    Attributes:
        kind: `FULL`, `ADAPTER` or `FOUR_BITS`.
        batch: pairs per batch.
        peak: peak memory of the run in GiB; None if it was not planned.
        fits: whether the peak fits in the machine's memory; None if it was not planned.
    """

    kind: str = FULL
    batch: int = 8
    peak: float | None = None
    fits: bool | None = None


def recipe_text(path: Path, model: SeenModel | None, data: SeenData | None, machine: Machine, fit: Fit) -> str:
    """Return the text of a recipe.

    Args:
        path: path the recipe will be written to.
        model, data: model and data it is for; None: a placeholder is written.
        machine: machine it is to run on.
        fit: how the model is trained.
    """
    parts = [
        _of_commands(path, model, data),
        _of_model(model, machine, fit),
        _of_data(data, model),
        _of_game(data, fit),
    ]
    text = "\n\n".join("\n".join(lines) for lines in [*parts, _of_machine(machine, fit), _of_run(path, data)])
    return text + "\n"


def _entry(name: str, value: Any, comment: str = "") -> str:
    """Return a setting as a line of YAML."""
    written = _as_yaml(value, escaped=False)
    if visible(written) != written:
        written = _as_yaml(value, escaped=True)
    return f"{name}: {written}" + (f"  # {_in_line(comment)}" if comment else "")


def _as_yaml(value: Any, *, escaped: bool) -> str:
    # In a list, since YAML writes an end-of-document marker after a bare scalar.
    return yaml.safe_dump(
        [value], default_flow_style=True, width=math.inf, allow_unicode=not escaped, sort_keys=False
    ).strip()[1:-1]


def gib_in_words(size: float) -> str:
    """Describe a size of memory, given in GiB."""
    return "less than 0.1 GiB" if size < 0.1 else f"{size:.1f} GiB"


def _comment(text: str) -> list[str]:
    """Return a text as comment lines; line breaks and control characters in it can't end the comment."""
    return textwrap.wrap(
        _in_line(text), COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _in_line(text: str) -> str:
    return " ".join(visible(text).split())


def _of_commands(path: Path, model: SeenModel | None, data: SeenData | None) -> list[str]:
    name = path.name
    commands = ["# Written by `spin-trl init`. Before the first run:"]
    if model is None or data is None:
        missing = " and ".join([*(["the model"] if model is None else []), *(["the data"] if data is None else [])])
        commands.append(f"#   fill in {missing} below")
    return [
        *commands,
        f"#   spin-trl preview {name}       show rows as they will be tokenised",
        f"#   spin-trl plan {name}          estimate memory, hours and disk",
        f"#   spin-trl run {name} --smoke   try two iterations on eight rows",
    ]


def _of_model(model: SeenModel | None, machine: Machine, fit: Fit) -> list[str]:
    lines = ["# The start: your SFT checkpoint, as a folder or a Hub name. Self-play begins where SFT ended."]
    lines.append(_entry("model_name_or_path", NO_MODEL if model is None else model.name))
    if model is None or not model.is_adapter:
        lines.append("# start: sft   # if this is a base model without SFT: trains the start on the same data first")
    adapts = fit.kind != FULL
    half = "float16" if _has_fp16(machine) else "bfloat16"
    on_gpu = machine.device.is_gpu
    if adapts and on_gpu:
        lines.append(_entry("dtype", half, "for the frozen weights; the adapter is trained in float32"))
    else:
        lines.append(_entry("dtype", "float32", "updates this small would be rounded away in 16-bit weights"))
    if fit.kind == FOUR_BITS:
        lines += [_entry("load_in_4bit", True), _entry("bnb_4bit_quant_type", "nf4")]
    if model is not None and model.is_adapter:
        lines.append("# The start is already an adapter, and training continues with it.")
    elif adapts:
        lines += [
            "# Training all weights would not fit on this machine, so an adapter is trained. Dropout would make the policy",
            "# differ from its opponent.",
            _entry("use_peft", True),
            _entry("lora_r", 16),
            _entry("lora_alpha", 32),
            _entry("lora_dropout", 0.0),
            _entry("lora_target_modules", ["all-linear"]),
        ]
    return lines


def _of_data(data: SeenData | None, model: SeenModel | None) -> list[str]:
    if data is None:
        return [
            "# The data: JSONL, JSON, Parquet, CSV or TSV, a folder, or a Hub name, with the columns `messages`, or",
            "# `prompt` and `completion`, or `instruction` and `output`. Map other column names to these.",
            _entry("dataset_name", NO_DATA),
            "# column_mapping: {question: prompt, answer: completion}",
            "# as_conversations: true   # applies the chat template to plain text",
            _entry(
                "max_length",
                _fitting_length(model, USUAL_LENGTH),
                "tokens of prompt and response; longer ones are truncated",
            ),
            *_OTHER_SETS,
        ]
    settings, guess = data.settings, data.guess
    lines = _comment(f"The data: {counted(data.total, 'row')} with the columns {', '.join(data.columns)}.")
    lines.append(_entry("dataset_name", settings.dataset_name))
    if settings.dataset_config is not None:
        lines.append(_entry("dataset_config", settings.dataset_config))
    if settings.dataset_train_split != "train":
        lines.append(_entry("dataset_train_split", settings.dataset_train_split))
    if guess.of_pairs:
        lines.append("# The preferred response of each pair is used as the human one; the other one is not used.")
    if guess.is_by_content:
        lines.append("# This mapping is a guess from the columns' contents: check it.")
    if guess.mapping:
        lines.append(_entry("column_mapping", guess.mapping))
    if settings.as_conversations:
        lines.append(_entry("as_conversations", True, "applies the chat template to prompts and responses"))
    elif data.is_text:
        lines.append("# Prompts are continued as plain text: no chat template is applied.")
    if data.unused is not None:
        lines += _comment(data.unused)
    if data.bad:
        number, problem = data.bad[0]
        seen = f"{len(data.bad)} of {counted(data.sampled, 'sampled row')}"
        lines += _comment(f"{seen} can't be used; the first is row {number}: {problem}")
        lines.append(_entry("bad_rows", "skip"))
    lines += _of_lengths(data, model)
    if data.total < FEW_ROWS:
        lines.append(
            _entry("held_out_fraction", 0.1, "of the prompts, for evaluation; for larger datasets 0.02 is enough")
        )
    return [*lines, *_OTHER_SETS]


def _of_lengths(data: SeenData, model: SeenModel | None) -> list[str]:
    whole, real = data.lengths
    longest, usual = at_quantile(whole, 1), at_quantile(whole, 0.98)
    wanted = longest if longest <= LONG_TAIL * usual else usual
    length = _fitting_length(model, wanted)
    cut = sum(one > length for one in whole)
    lines = [f"# Lengths of {lengths_in_words(data)}."]
    lines.append(
        _entry("max_length", length, f"truncates {cut / max(len(whole), 1):.1%} of them" if cut else "truncates none")
    )
    answer = min(_fitting_length(model, at_quantile(real, 0.98)), length)
    lines.append(_entry("max_new_tokens", answer, "per answer; 98 % of the real responses are at most this long"))
    return lines


def _fitting_length(model: SeenModel | None, wanted: int) -> int:
    """Return the next larger usual length, capped at the model's number of positions."""
    usual = next((one for one in USUAL_LENGTHS if one >= wanted), USUAL_LENGTHS[-1])
    positions = None if model is None else model.positions
    return usual if positions is None else min(usual, positions)


def _of_game(data: SeenData | None, fit: Fit) -> list[str]:
    rate = 5e-7 if fit.kind == FULL else 1e-5
    why = "as in the SPIN paper" if fit.kind == FULL else "20 times SPIN's: an adapter changes the model less per step"
    scored = [
        "# Score the answers to held-out prompts, and choose the best iteration by the score: exact_match, gsm8k, boxed,",
        "# choice, json, `regex:PATTERN` or `module:function`.",
        "# scorer: ...",
        "# metric_for_best_iteration: score",
    ]
    if data is not None and data.scorer is not None:
        scored = [
            f"# The answers have the form that the scorer {data.scorer} expects. To choose the best iteration by its score:",
            f"# scorer: {data.scorer}",
            f"# metric_for_best_iteration: {'score/exact_match' if data.scorer == 'gsm8k' else 'score'}",
        ]
    return [
        "# The game. A list gives each iteration its own value: learning_rate: [5.0e-7, 5.0e-7, 1.0e-7].",
        _entry("num_iterations", 3),
        _entry("loss_type", "sigmoid", "SPIN's objective; for others see docs/objectives.md"),
        f"learning_rate: {_in_figures(rate)}  # {why}",
        _entry("num_train_epochs", 1),
        "# Also train the start on the real responses alone for as many steps, to see what self-play adds.",
        _entry("baseline", "sft", "or several, like [sft, sft-dft]"),
        *scored,
    ]


def _in_figures(rate: float) -> str:
    return f"{rate:.1e}".replace("e-0", "e-")


def _of_machine(machine: Machine, fit: Fit) -> list[str]:
    device, lines = machine.device, []
    place = "Apple's GPU" if machine.is_mps else device.name if device.is_gpu else "a CPU"
    planned = (
        f"; `spin-trl plan` estimates a peak of {gib_in_words(fit.peak)} for the run" if fit.peak is not None else ""
    )
    lines.append(f"# The machine: {_in_line(place)} with {device.memory:.0f} GiB{planned}.")
    if fit.fits is False:
        lines.append("# THIS DOES NOT FIT. `spin-trl plan` shows what would.")
    if device.is_gpu:
        lines.append(_entry("fp16" if _has_fp16(machine) else "bf16", True))
        if _has_fp16(machine):
            lines.append(_entry("bf16", False, "this GPU has no bfloat16"))
    else:
        lines.append(_entry("bf16", False))
        if not machine.is_mps:
            lines.append(_entry("use_cpu", True, "on a machine with a GPU, remove this and set `bf16: true`"))
    lines.append(_entry("per_device_train_batch_size", fit.batch))
    steps = PAIRS_A_STEP // fit.batch
    lines.append(_entry("gradient_accumulation_steps", steps, f"{PAIRS_A_STEP} pairs per step"))
    if device.is_gpu:
        lines.append(_entry("activation_checkpointing", True))
    return lines


def _has_fp16(machine: Machine) -> bool:
    """Return whether half precision has to be float16."""
    return machine.device.is_gpu and not machine.device.has_bf16


def _of_run(path: Path, data: SeenData | None) -> list[str]:
    return [
        "# The run directory, which contains everything the run produces; `--smoke` uses a separate one next to it. If the",
        "# run is interrupted, the same command resumes it.",
        _entry("output_dir", f"runs/{path.stem}"),
        _entry("report_to", "none"),
        _entry("seed", 42),
    ]
