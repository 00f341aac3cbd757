"""Build the same trainer of either class, and compare the two."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback
from trl import DPOConfig, DPOTrainer

from spin_trl import SPINConfig, SPINTrainer

# Both classes run the same arithmetic on the same machine; only the order of additions may differ.
RELATIVE: Final = 1e-5
ROUNDED: Final = 1e-2
"""The same for matrix products in bfloat16, whose numbers have eight bits."""
CLEAR: Final = 1e-4
"""A mean margin below this may come from pairs whose margins are 0, for which rounding alone decides which response is
ahead.
"""

Build = Callable[["Kind"], DPOTrainer]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """A trainer class with its configuration class, and a folder to write to."""

    trainer: type[DPOTrainer]
    config: type[DPOConfig]
    folder: str

    def settings(self, **overrides: Any) -> DPOConfig:
        """Return settings for three steps of two pairs on the CPU in float32, logging each; with plain SGD, so that
        weights can be compared.
        """
        defaults: dict[str, Any] = {
            "output_dir": self.folder,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "max_steps": 3,
            "logging_steps": 1,
            "optim": "sgd",
            "learning_rate": 0.1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        return self.config(**{**defaults, **overrides})

    def build(self, model: str | PreTrainedModel, *, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Return a trainer of this kind; `settings` override the configuration's defaults."""
        return self.trainer(model=model, args=self.settings(**(settings or {})), **kwargs)


def kinds(folder: str) -> tuple[Kind, Kind]:
    """Return DPOTrainer, which defines what is right, and SPINTrainer."""
    return Kind(DPOTrainer, DPOConfig, f"{folder}/dpo"), Kind(SPINTrainer, SPINConfig, f"{folder}/spin")


class Steps(TrainerCallback):
    """Callback that records the steps, and may stop after one of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.taken: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken.append(state.global_step)
        control.should_training_stop = state.global_step == self.stop_after


def weights(model: torch.nn.Module) -> Weights:
    """Return a copy of a model's parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def unchanged(before: Weights, model: torch.nn.Module) -> set[str]:
    """Return the names of the parameters that have not changed in any bit."""
    return {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}


def steps(trainer: DPOTrainer, key: str = "loss") -> list[float]:
    """Return what a trainer logged under a key, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def same_logs(dpo: DPOTrainer, spin: DPOTrainer, relative: float = RELATIVE) -> None:
    """Check that both logged the same metrics with the same values, at the same steps, ignoring wall-clock times."""
    assert len(dpo.state.log_history) == len(spin.state.log_history)
    for expected, found in zip(dpo.state.log_history, spin.state.log_history, strict=True):
        same_metrics(expected, found, relative)


def same_metrics(expected: Mapping[str, float], found: Mapping[str, float], relative: float = RELATIVE) -> None:
    """Check that two sets of metrics have the same names and values, ignoring wall-clock times, and accuracies without
    margins.
    """
    timeless, others = dict(_timeless(expected)), dict(_timeless(found))
    assert all(math.isfinite(value) for value in timeless.values())
    for name in timeless.keys() & others.keys():
        if name.endswith("rewards/accuracies") and abs(timeless[name.replace("accuracies", "margins")]) < CLEAR:
            assert 0 <= others.pop(name) <= 1
            timeless.pop(name)
    assert others == pytest.approx(timeless, rel=relative, abs=2 * relative, nan_ok=True)


def _timeless(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, v) for name, v in metrics.items() if not name.endswith(("_runtime", "_per_second", "_time")))


def same_weights(dpo: torch.nn.Module, spin: torch.nn.Module, relative: float = RELATIVE) -> None:
    """Check that two models have the same parameters with the same values, or, if rounded, nearly the same as a whole."""
    expected, found = weights(dpo), weights(spin)
    assert expected.keys() == found.keys()
    for name, parameter in expected.items():
        difference, size = (found[name].float() - parameter.float()).abs(), parameter.float().abs()
        if relative == RELATIVE:
            assert bool((difference <= relative * (0.2 + size)).all()), f"{name}: {difference.max()}"
        assert difference.norm() <= relative * (1 + size.norm()), f"{name}: {difference.norm()}"
        assert found[name].dtype == parameter.dtype, name


def train_both(folder: str, build: Build, relative: float = RELATIVE) -> tuple[DPOTrainer, DPOTrainer]:
    """Train with each class from the same start and check that losses, metrics and weights agree; return both trainers."""
    trainers = []
    for kind in kinds(folder):
        trainer = build(kind)
        trainer.train()
        trainers.append(trainer)
    dpo, spin = trainers
    assert type(spin) is SPINTrainer
    same_logs(dpo, spin, relative)
    same_weights(dpo.model, spin.model, relative)
    return dpo, spin


def reference_logps(model: PreTrainedModel, prompt: list[int], response: list[int]) -> float:
    """Return log p(response | prompt), computed from the model's logits without any of TRL's code."""
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logps = model(input_ids=ids).logits.log_softmax(dim=-1)
    first = len(prompt)
    return sum(float(logps[0, position - 1, ids[0, position]]) for position in range(first, ids.size(1)))
