"""What of a recipe decides memory, time and disk: its model's configuration, how it is loaded, and how it is trained."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
from peft import PeftConfig
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig
from trl import get_quantization_config

from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig, iteration_settings
from ..config.recipe import Recipe
from ..errors import PlanError
from ..models.adapters import base_of, is_adapter, load_adapter_config, peft_config_of
from ..objectives.terms import ObjectiveTerms
from ..training.pairs_trainer import OPPONENT_BATCH_FACTOR
from ..training.scratch import start_config
from .model import ModelSettings
from .sharding import Sharding


@dataclass(frozen=True)
class Setup:
    """A recipe, ready to be planned.

    Attributes:
        recipe: as it was read.
        config: of the model.
        peft: the adapter that is trained, or None for full fine-tuning.
        quantization: how the model is quantised when it is loaded, or None.
        sharding: what training's processes share.
        starts_from_adapter: whether θ_0 is an adapter already.
        on_gpu: whether it runs on GPUs.
    """

    recipe: Recipe
    config: PretrainedConfig
    peft: PeftConfig | None
    quantization: BitsAndBytesConfig | None
    sharding: Sharding
    starts_from_adapter: bool
    on_gpu: bool

    @property
    def args(self) -> SPINConfig:
        return self.recipe.args

    @property
    def play(self) -> SelfPlayConfig:
        return self.recipe.play

    @property
    def is_from_scratch(self) -> bool:
        """Whether θ_0 is built and trained by the run itself."""
        return self.recipe.model.model_name_or_path is None

    @property
    def num_processes(self) -> int:
        return self.sharding.num_processes

    @property
    def precision(self) -> str:
        """`bf16`, `fp16` or `no`: what training computes in, where weights are float32."""
        return "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "no"

    @property
    def optim(self) -> str:
        """Name of the optimiser."""
        return str(getattr(self.args.optim, "value", self.args.optim))

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed anew in the backward pass."""
        return bool(self.args.activation_checkpointing) or self.sharding.checkpoints

    @property
    def dtype(self) -> torch.dtype:
        """In which weights are loaded."""
        named = self.args.model_kwargs.get("dtype", "float32")
        if named == "auto" or named is None:
            named = getattr(self.config, "dtype", None) or torch.float32
        return getattr(torch, named) if isinstance(named, str) else named

    @property
    def keeps_adapter(self) -> bool:
        """Whether some iteration has the opponent as a frozen copy of the adapter."""
        later = self.play.num_iterations > 1 and self.play.lora_opponent == "adapter"
        return self.peft is not None and (later or self.starts_from_adapter)

    @property
    def terms(self) -> ObjectiveTerms:
        """What the losses ask for."""
        losses = self.args.losses
        return ObjectiveTerms(losses, self.args.loss_weights or [1.0] * len(losses), self.args.objective_values())

    @property
    def branches(self) -> int:
        """Responses of a pair in training, at most: T-SPIN has a third from iteration 1 on."""
        return 3 if self.terms.needs_proto and self.play.num_iterations > 1 else 2

    @property
    def opponent_is_precomputed(self) -> bool:
        """Whether the opponent's log-probabilities are computed once an iteration."""
        in_8_bits = self.quantization is not None and self.quantization.load_in_8bit
        is_switched = self.peft is not None and (self.sharding.kind == "FSDP" or in_8_bits)
        return not self.terms.reference_free and not is_switched

    @property
    def opponent_batch(self) -> int:
        """Pairs that the opponent scores together."""
        return self.args.precompute_ref_batch_size or OPPONENT_BATCH_FACTOR * self.args.per_device_train_batch_size

    @property
    def pairs_per_step(self) -> int:
        """Pairs of an optimiser step, on all processes."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self.num_processes

    def of_iteration(self, name: str, iteration: int) -> float:
        """A setting that may differ by iteration."""
        return float(iteration_settings(self.play, iteration).get(name, getattr(self.args, name)))

    def loaded(self) -> ModelSettings:
        """The model as generation and evaluation load it: whole, on every process."""
        return ModelSettings(
            self.config,
            self.dtype,
            self.quantization,
            self.peft,
            precision=self.precision,
            attention=self.args.model_kwargs.get("attn_implementation") or "sdpa",
            trust_remote_code=self.args.trust_remote_code,
        )

    def trained(self) -> ModelSettings:
        """The model as training computes with it. Sharded weights are computed with in half precision."""
        settings = dataclasses.replace(
            self.loaded(), frozen_adapter=self.keeps_adapter, disable_dropout=self.args.disable_dropout
        )
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        if self.sharding.is_sharded and half is not None:
            settings = dataclasses.replace(settings, dtype=half, precision="no")
        return settings


def read_setup(recipe: Recipe, sharding: Sharding, *, on_gpu: bool, vocab_size: int | None = None) -> Setup:
    """What there is to know of a recipe's model, from its configuration alone. No weights are read or fetched.

    Args:
        recipe: read, and told how to load (`Recipe.load_as_set`).
        sharding: what training's processes share.
        on_gpu: whether it runs on GPUs.
        vocab_size: of the tokenizer that a run from scratch makes.

    Raises:
        PlanError: the model's configuration is not at hand.
    """
    name = recipe.model.model_name_or_path
    peft = peft_config_of(recipe.model)
    starts_from_adapter = False
    if name is None:
        length = recipe.args.max_length or 2048
        config: PretrainedConfig = start_config(recipe.start, vocab_size or recipe.start.start_vocab_size, length)
    else:
        kwargs = {"revision": recipe.args.model_kwargs.get("revision")}
        if is_adapter(name):
            starts_from_adapter, peft = True, load_adapter_config(name)
            peft.inference_mode = False
            name, kwargs = base_of(name), {}
        config = _model_config(name, trust_remote_code=recipe.args.trust_remote_code, **kwargs)
    return Setup(recipe, config, peft, get_quantization_config(recipe.model), sharding, starts_from_adapter, on_gpu)


def _model_config(name: str, **kwargs: Any) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        what = (
            "has no config.json"
            if Path(name).is_dir()
            else "is no folder, and its config.json is not in the Hub's cache"
        )
        raise PlanError(
            f"The model {name!r} can't be planned: it {what}, nor could it be fetched. A config.json is all that is needed: "
            f"put one into a folder, and name it with `--model_name_or_path`. ({str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def offline_datasets() -> Iterator[None]:
    """Let `datasets` find what is cached, and fetch nothing."""
    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def for_any_machine(overrides: Sequence[str]) -> list[str]:
    """Arguments with which a recipe for GPUs can be read on a machine that has none."""
    return [*overrides, "--use_cpu", "true"]
