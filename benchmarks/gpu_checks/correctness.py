"""Checks that training over unique tokens is correct on this device: losses, metrics and gradients match DPOTrainer's.

A small Qwen2 plays two iterations of two steps with each trainer, from the same weights and on the same pairs: full
fine-tuning and LoRA, in float32 and in mixed bfloat16. The second iteration starts where DPOTrainer's first one ended, in
float32. Float32 must agree with DPOTrainer. In bfloat16, both are compared with DPOTrainer in float32, and the distance of
ours is bounded relative to that of DPOTrainer in bfloat16 (`BFLOAT16`).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import DPOConfig

import training
from spin_trl import SPINConfig
from spin_trl.models.forward import attention
from spin_trl.training import opponent as opponents

from .check import Session, largest

SIZE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
STEPS, ITERATIONS = 2, 2
UNCOMPARED = ("rewards/accuracies", "grad_norm", "learning_rate", "epoch", "num_tokens")
"""Metrics that are not compared: accuracies, which are ties at the first step, and those not from the forward pass."""

FLOAT32 = 1e-3
"""Maximum relative distance in float32: both sum the same numbers in different orders."""

BFLOAT16 = 1.5
"""Maximum distance of ours from float32, relative to DPOTrainer in bfloat16: it rounds as often, but at other places."""

Pairs = Sequence[tuple[list[int], list[int], list[int]]]
Gradients = dict[str, torch.Tensor]


@dataclass
class Trajectory:
    """A trainer's logs and gradients in one iteration, step by step."""

    logs: list[dict[str, float]] = field(default_factory=list)
    gradients: list[Gradients] = field(default_factory=list)
    excess: float = math.nan
    """Largest log-ratio at the first step, as a share of the tolerance of the opponent's check."""


class Recorder(TrainerCallback):
    """Records the gradients before every optimiser step, and the logs."""

    def __init__(self, found: Trajectory) -> None:
        self.found = found

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.found.gradients.append(
            {
                name: parameter.grad.detach().float().cpu()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.found.logs.append(dict(logs))


@dataclass(frozen=True)
class Arm:
    """A trainer and its precision.

    Attributes:
        ours: whether it is SPINTrainer over unique tokens; else DPOTrainer.
        flex: whether SPINTrainer uses FlexAttention.
        bf16: whether it uses mixed bfloat16 precision; else float32.
    """

    ours: bool
    flex: bool = False
    bf16: bool = False

    @property
    def name(self) -> str:
        kind = "DPOTrainer" if not self.ours else "FlexAttention" if self.flex else "gathered rows"
        return f"{kind}, {'bf16' if self.bf16 else 'float32'}"


@dataclass(frozen=True)
class Game:
    """One model and its pairs, shared by all arms.

    Attributes:
        folder: folder that contains the model as `model`.
        lora: whether an adapter is trained.
        pairs: pairs of each iteration.
        device: `cuda` or `cpu`.
    """

    folder: Path
    lora: bool
    pairs: Sequence[Pairs]
    device: str

    def start(self, iteration: int) -> Path:
        """Return the folder of an iteration's start; with LoRA, from the second iteration on, that of the adapter."""
        return self.folder / ("model" if iteration == 0 else f"start-{iteration}-{'lora' if self.lora else 'full'}")

    def play(self, arm: Arm, iteration: int, keep: bool = False) -> Trajectory:
        """Play one iteration of an arm; `keep` saves the result as the next iteration's start."""
        found = Trajectory()
        trainer = self._trainer(arm, iteration, [Recorder(found)])
        trainer.remove_callback(PrinterCallback)
        with flex_attention(arm.flex), _recorded_check(found):
            trainer.train()
        if keep:
            trainer.model.save_pretrained(
                self.start(iteration + 1), selected_adapters=["default"] if self.lora else None
            )
        del trainer
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        if (len(found.logs), len(found.gradients)) != (STEPS, STEPS):
            raise AssertionError(f"{arm.name}: {len(found.logs)} steps were logged, and {len(found.gradients)} taken.")
        return found

    def _trainer(self, arm: Arm, iteration: int, callbacks: list[TrainerCallback]) -> Any:
        settings: dict[str, Any] = {"shared_prefix": True} if arm.ours else {}
        args = (SPINConfig if arm.ours else DPOConfig)(
            output_dir=str(self.folder / "out"),
            use_cpu=self.device == "cpu",
            bf16=arm.bf16,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(self.pairs[iteration]) // STEPS,
            max_length=None,
            max_steps=STEPS,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            precompute_ref_log_probs=not self.lora,
            dataloader_pin_memory=self.device == "cuda",
            **settings,
        )
        kind, rows, more = training.rows_for(arm.ours, self.pairs[iteration])
        # The frozen base of an adapter may be in bfloat16 with any trainer: it is not rounded from step to step.
        dtype = torch.bfloat16 if self.lora and arm.bf16 else torch.float32
        source = self.folder / "model" if self.lora else self.start(iteration)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        model.to(self.device)
        peft_config = None
        if self.lora and iteration:
            model = PeftModel.from_pretrained(model, str(self.start(iteration)), is_trainable=True)
        elif self.lora:
            torch.manual_seed(0)
            peft_config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights="gaussian")
        return kind(
            model=model,
            args=args,
            train_dataset=rows,
            processing_class=training.tokenizer(),
            peft_config=peft_config,
            callbacks=callbacks,
            **more,
        )


def run(session: Session) -> None:
    """Play all arms, and report their distance from DPOTrainer."""
    size = training.SIZES["tiny"] if session.tiny else SIZE
    training.save_model(size, session.folder, dtype=torch.bfloat16)  # so that both dtypes start from the same numbers
    count = 4 if session.tiny else 8
    pairs = [training.made_up("ultrachat", count, size["vocab_size"], seed=seed) for seed in range(ITERATIONS)]
    if session.tiny:
        pairs = [[(p[:40], c[:40], r[:30]) for p, c, r in one] for one in pairs]
    flexes = [True, False] if session.on_gpu else [False]
    if not session.on_gpu:
        session.not_here("FlexAttention, compiled, forward and backward", "its backward pass needs a GPU")
    games = {lora: Game(session.folder, lora, pairs, session.device) for lora in (False, True)}
    for lora, game in games.items():
        tuning = "LoRA" if lora else "full"
        truth = [game.play(Arm(ours=False), t, keep=t + 1 < ITERATIONS) for t in range(ITERATIONS)]
        for flex in flexes:
            arm = Arm(ours=True, flex=flex)
            found = [game.play(arm, t) for t in range(ITERATIONS)]
            session.figure(f"{tuning}, {arm.name}: metrics", metric_distance(found, truth), at_most=FLOAT32)
            session.figure(f"{tuning}, {arm.name}: gradients", gradient_distance(found, truth), at_most=FLOAT32)
            _report_check(session, f"{tuning}, {arm.name}", found)
        peer = [game.play(Arm(ours=False, bf16=True), t) for t in range(ITERATIONS)]
        theirs = gradient_distance(peer, truth)
        session.figure(f"{tuning}, DPOTrainer, bf16: gradients", theirs)
        session.figure(f"{tuning}, DPOTrainer, bf16: metrics", metric_distance(peer, truth))
        for flex in flexes:
            arm = Arm(ours=True, flex=flex, bf16=True)
            found = [game.play(arm, t) for t in range(ITERATIONS)]
            ours = gradient_distance(found, truth)
            session.figure(f"{tuning}, {arm.name}: gradients", ours, at_most=BFLOAT16 * theirs)
            session.figure(f"{tuning}, {arm.name}: metrics", metric_distance(found, truth))
            _report_check(session, f"{tuning}, {arm.name}", found)


def _report_check(session: Session, name: str, found: Sequence[Trajectory]) -> None:
    excess = largest(one.excess for one in found)
    session.figure(f"{name}: log-ratio at step 0, of what is allowed", excess, at_most=1.0)


def metric_distance(found: Sequence[Trajectory], truth: Sequence[Trajectory]) -> float:
    """Return the largest difference of a logged metric, relative to its magnitude if that is above 1."""
    differences = []
    for one, other in zip(found, truth, strict=True):
        for logs, expected in zip(one.logs, other.logs, strict=True):
            missing = expected.keys() - logs.keys()
            if missing:
                raise AssertionError(f"Metrics are missing: {', '.join(sorted(missing))}.")
            names = [name for name in expected if name not in UNCOMPARED]
            differences += [abs(logs[name] - expected[name]) / max(1.0, abs(expected[name])) for name in names]
    return largest(differences)


def gradient_distance(found: Sequence[Trajectory], truth: Sequence[Trajectory]) -> float:
    """Return the largest ||g - truth|| / ||truth|| of a step, over all parameters together."""
    distances = []
    for one, other in zip(found, truth, strict=True):
        for gradients, expected in zip(one.gradients, other.gradients, strict=True):
            if gradients.keys() != expected.keys():
                raise AssertionError(
                    f"The parameters with gradients differ: {sorted(gradients.keys() ^ expected.keys())[:5]}."
                )
            square = sum(float((gradients[name] - expected[name]).square().sum()) for name in expected)
            size = sum(float(value.square().sum()) for value in expected.values())
            distances.append(math.sqrt(square / size) if size else math.nan)
    return largest(distances)


@contextlib.contextmanager
def flex_attention(wanted: bool) -> Iterator[None]:
    """Use FlexAttention if wanted and available, else rows gathered for SDPA."""
    found = attention.has_flex_attention if wanted else lambda device: False
    with mock.patch.object(attention, "has_flex_attention", found):
        yield


@contextlib.contextmanager
def _recorded_check(found: Trajectory) -> Iterator[None]:
    """Record which share of its tolerance the opponent's check uses."""
    check = opponents.check_starting_point

    @functools.wraps(check)
    def recorded(policy: torch.Tensor, opponent: torch.Tensor, tokens: torch.Tensor, dtype: torch.dtype) -> None:
        allowed = opponents.NOISE_PER_TOKEN[dtype] * tokens.clamp(min=1).sqrt().to(policy.device)
        share = (policy.detach().float() - opponent.float().to(policy.device)).abs() / allowed
        found.excess = float(share.max())
        check(policy, opponent, tokens, dtype)

    with mock.patch.object(opponents, "check_starting_point", recorded):
        yield
