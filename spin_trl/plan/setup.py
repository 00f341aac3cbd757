"""The parts of a recipe that determine memory, time and disk: the model's configuration, loading and training."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import CONFIG_NAME
from trl import get_quantization_config

from ..config.dpo_on_top import dpo_config
from ..config.engines import TRANSFORMERS
from ..config.loop import iteration_settings
from ..config.recipe import Recipe
from ..config.server import SERVER
from ..config.sft_first import sft_first_config, sft_values
from ..config.traits import SFT_FIRST
from ..counts import counted
from ..errors import PlanError, message_of
from ..models.adapters import base_of, is_adapter, load_adapter_config, peft_config_of
from ..models.loading import is_of_files
from ..objectives.terms import ObjectiveTerms
from ..training.scratch import start_config
from ..training.start_logps import scoring_batch
from .model import ModelSettings


@dataclass(frozen=True)
class Sharding:
    """How training is distributed over processes.

    Attributes:
        kind: NO, DDP, ZeRO-1, ZeRO-2, ZeRO-3 or FSDP. Generation and evaluation always hold whole replicas.
        num_processes: number of GPUs.
        offloads_optimizer: whether optimiser states are kept in host memory.
        offloads_weights: whether weights are kept in host memory too.
        checkpoints: whether FSDP itself applies activation checkpointing.
    """

    kind: str = "NO"
    num_processes: int = 1
    offloads_optimizer: bool = False
    offloads_weights: bool = False
    checkpoints: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only a part of the training state."""
        return self.kind not in ("NO", "DDP")

    @property
    def shards_weights(self) -> bool:
        return self.kind in ("ZeRO-3", "FSDP")

    @property
    def described(self) -> str:
        if self.kind == "NO":
            return "one process"
        host = "optimiser and weights" if self.offloads_weights else "the optimiser" if self.offloads_optimizer else ""
        on_host = f" with {host} on the host" if host else ""
        return f"{counted(self.num_processes, 'process', 'processes')}, {self.kind}{on_host}"


def read_sharding(config: Mapping[str, Any] | None, num_gpus: int | None = None) -> Sharding:
    """Read the sharding from an accelerate configuration.

    Args:
        config: content of the file, or None for one process, or DDP.
        num_gpus: number of GPUs; overrides the configuration's `num_processes`.

    Raises:
        PlanError: if this kind of configuration can't be planned.
    """
    config = config or {}
    count = int(num_gpus or config.get("num_processes") or 1)
    replicas = "DDP" if count > 1 else "NO"
    kind = str(config.get("distributed_type", "NO")).upper()
    if kind == "DEEPSPEED":
        settings = config.get("deepspeed_config") or {}
        if "zero_stage" not in settings:
            raise PlanError(
                "The accelerate configuration has no `zero_stage`. A configuration that refers to a separate DeepSpeed file "
                "can't be planned; write its stage and offloading into `deepspeed_config`."
            )
        stage = settings["zero_stage"]
        if str(stage) not in ("0", "1", "2", "3"):
            raise PlanError(f"The accelerate configuration sets `zero_stage` to {stage!r}; expected 0, 1, 2 or 3.")
        on_host = [
            str(settings.get(f"offload_{what}_device")).lower() in ("cpu", "nvme") for what in ("optimizer", "param")
        ]
        return Sharding(f"ZeRO-{stage}" if str(stage) != "0" else replicas, count, *on_host)
    if kind == "FSDP":
        settings = config.get("fsdp_config") or {}
        offloads, checkpoints = (
            str(settings.get(f"fsdp_{what}")).lower() == "true"
            for what in ("offload_params", "activation_checkpointing")
        )
        return Sharding("FSDP", count, offloads, offloads, checkpoints)
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return Sharding(replicas, count)
    raise PlanError(f"`distributed_type: {kind}` can't be planned; supported are NO, MULTI_GPU, FSDP and DEEPSPEED.")


class Setup:
    """A recipe, ready to be planned. The model's configuration is read; no weights are read or downloaded.

    Args:
        recipe: recipe, after `Recipe.load_as_set`.
        sharding: distribution of training over processes.
        on_gpu: whether it runs on GPUs.
        vocab_size: vocabulary size of the tokenizer that a run from scratch builds.

    Attributes:
        args, play: the recipe's settings of an iteration, and of the loop.
        config: configuration of the model.
        is_from_scratch: whether θ_0 is built and trained by the run itself.
        sft_first: whether θ_0 is trained from the given model with SFT.
        sft_peft: adapter that SFT first trains, or None for full fine-tuning.
        peft: adapter to train, or None for full fine-tuning.
        starts_from_adapter: whether θ_0 is already an adapter.
        keeps_adapter: whether the opponent is a frozen copy of the adapter in some iteration.
        quantization: quantisation of the loaded model, or None.
        dtype: dtype of the loaded weights.
        precision: `bf16`, `fp16` or `no`: mixed precision of training with float32 weights.
        optim: name of the optimiser.
        checkpointing: whether activations are recomputed in the backward pass.
        terms: terms that the losses need.
        branches: maximum number of responses per pair in training: T-SPIN has a third from iteration 1 on.
        opponent_is_precomputed: whether the opponent's log-probabilities are computed once per iteration.
        mixes_start: whether the start scores responses in some iteration, to be mixed into the opponent.
        opponent_batch: number of pairs that the opponent scores at once, or of responses that the start does.
        num_processes: number of GPUs.
        pairs_per_step: pairs per optimiser step, over all processes.

    Raises:
        PlanError: if the model's configuration is not available.
    """

    def __init__(self, recipe: Recipe, sharding: Sharding, *, on_gpu: bool, vocab_size: int | None = None) -> None:
        # Long, because the attributes are derived from each other, once.
        self.recipe, self.sharding, self.on_gpu = recipe, sharding, on_gpu
        self.args, self.play = args, play = recipe.args, recipe.play
        name = recipe.model.model_name_or_path
        init = args.model_kwargs
        self.is_from_scratch, self.sft_first = name is None, play.start == SFT_FIRST
        self.peft = peft_config_of(recipe.model)
        self.sft_peft = peft_config_of(recipe.model, use_peft=play.sft_use_peft) if self.sft_first else None
        self.starts_from_adapter = False
        if name is None:
            vocabulary = vocab_size or recipe.start.start_vocab_size
            self.config: PretrainedConfig = start_config(recipe.start, vocabulary, args.max_length or 2048)
        else:
            kwargs = {"revision": init.get("revision")}
            if is_adapter(name):
                self.starts_from_adapter, self.peft = True, load_adapter_config(name)
                self.peft.inference_mode = False
                self.sft_peft = self.peft if self.sft_first else None
                name, kwargs = base_of(name), {}
            self.config = _model_config(name, trust_remote_code=args.trust_remote_code, **kwargs)
        later = play.num_iterations > 1 and play.lora_opponent == "adapter"
        self.keeps_adapter = self.peft is not None and (later or self.starts_from_adapter or self.sft_peft is not None)
        self.quantization = get_quantization_config(recipe.model)
        dtype = init.get("dtype", "float32")
        if dtype == "auto" or dtype is None:
            dtype = getattr(self.config, "dtype", None) or torch.float32
        self.dtype: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.attention: str = init.get("attn_implementation") or "sdpa"
        self.precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
        self.optim = str(getattr(args.optim, "value", args.optim))
        self.checkpointing = bool(args.activation_checkpointing) or sharding.checkpoints
        self.terms = ObjectiveTerms(
            args.losses, args.loss_weights or [1.0] * len(args.losses), args.objective_values()
        )
        self.branches = 3 if self.terms.needs_proto and play.num_iterations > 1 else 2
        in_8_bits = self.quantization is not None and self.quantization.load_in_8bit
        is_switched = self.peft is not None and (sharding.kind == "FSDP" or in_8_bits)
        self.opponent_is_precomputed = not self.terms.reference_free and not is_switched
        self.mixes_start = args.opponent_mix > 0 and play.num_iterations > 1
        self.opponent_batch = scoring_batch(args)
        self.num_processes = sharding.num_processes
        self.pairs_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * self.num_processes

    @property
    def makes_start(self) -> bool:
        """Whether the run trains θ_0, from scratch or with SFT first."""
        return self.is_from_scratch or self.sft_first

    @property
    def asks_servers(self) -> bool:
        """Whether servers that exist already generate (`engine: server`)."""
        return self.args.engine == SERVER

    @property
    def is_continuous(self) -> bool:
        """Whether transformers generates by continuous batching, in processes of its own (`generation_continuous`)."""
        return self.args.engine == TRANSFORMERS and self.play.generation_continuous

    @property
    def in_batches(self) -> bool:
        """Whether the run's own processes generate in micro-batches (`generation_batch_size`)."""
        return self.args.engine == TRANSFORMERS and not self.play.generation_continuous

    def room_for(self, batch_size: int) -> int:
        """Return for how many responses of a process the run makes room: a micro-batch, or with continuous batching on a
        CPU `generation_concurrency`. On a GPU, that takes whatever memory is free: at least for one response.

        Args:
            batch_size: number of prompts in a micro-batch.
        """
        if not self.is_continuous:
            return batch_size
        return 1 if self.on_gpu else math.ceil(self.play.generation_concurrency / self.num_processes)

    def self_play_rows(self, rows: int) -> int:
        """Return how many of a number of rows self-play uses (`self_play_prompts`)."""
        share = {"all": 1.0, "seen": self.play.sft_share, "unseen": 1 - self.play.sft_share}
        return max(round(share[self.play.self_play_prompts] * rows), 1) if self.sft_first else rows

    def of_sft(self) -> Setup:
        """Return the setup of SFT first: its adapter and its settings."""
        setup = copy.copy(self)
        setup.peft, setup.keeps_adapter = self.sft_peft, False
        setup.args = copy.copy(self.args)
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "optim"):
            setattr(setup.args, name, sft_values(self.play).get(name, getattr(self.args, name)))
        setup.optim = str(getattr(setup.args.optim, "value", setup.args.optim))
        config = sft_first_config(self.args, self.play, measures=False)
        setup.checkpointing = bool(config.activation_checkpointing) or self.sharding.checkpoints
        return setup

    def of_dpo(self) -> Setup:
        """Return the setup of DPO on top: its settings, with the adapter of self-play."""
        setup = copy.copy(self)
        setup.args = dpo_config(self.args, self.play)
        setup.checkpointing = bool(setup.args.activation_checkpointing) or self.sharding.checkpoints
        setup.opponent_batch = scoring_batch(setup.args)
        setup.optim = str(getattr(setup.args.optim, "value", setup.args.optim))
        return setup

    def of_iteration(self, name: str, iteration: int) -> float:
        """Return a setting that may differ by iteration."""
        return float(iteration_settings(self.play, iteration).get(name, getattr(self.args, name)))

    def loaded(self) -> ModelSettings:
        """Return the model's settings for generation and evaluation: a whole replica on every process."""
        args = self.args
        return ModelSettings(
            self.config, self.dtype, self.quantization, self.peft, False, self.precision, self.attention,
            args.trust_remote_code, checkpointing=self.checkpointing, on_gpu=self.on_gpu,
        )  # fmt: skip

    def trained(self) -> ModelSettings:
        """Return the model's settings for training. With sharding, mixed precision computes in half-precision weights."""
        changes: dict[str, Any] = {}
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        if self.sharding.is_sharded and half is not None:
            changes = {"dtype": half, "precision": "no"}
        return dataclasses.replace(
            self.loaded(), frozen_adapter=self.keeps_adapter, disable_dropout=self.args.disable_dropout, **changes
        )


def _model_config(name: str, **kwargs: Any) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, **kwargs)
    except Exception as error:
        if not is_of_files(error):
            raise
        said = (message_of(error).splitlines() or [""])[0]
        if os.path.lexists(os.path.join(name, CONFIG_NAME)):
            raise PlanError(f"The model {name!r} can't be planned: its config.json can't be read ({said}).") from error
        what = (
            "has no config.json"
            if os.path.isdir(name)
            else "is not a folder, and its config.json is not in the Hub's cache"
        )
        raise PlanError(
            f"The model {name!r} can't be planned: it {what} and could not be downloaded. Only a config.json is needed: put "
            f"one into a folder, and pass the folder with `--model_name_or_path`. ({said})"
        ) from error
