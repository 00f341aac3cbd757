"""Self-play trainers on a few rows, with helpers for their logs, their rows, and where they keep their generations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import tiny
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.generation.store import GenerationStore

LN2 = 0.6931471805599453
AT_ZERO = {"sigmoid": LN2, "space": 2 * LN2}
"""Values of the objectives if all log-ratios are 0: -log sigmoid(0), and twice that."""

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def settings(**overrides: Any) -> SPINConfig:
    """Return settings for two steps of three pairs on the CPU, with a learning rate that moves the tiny model far."""
    defaults: dict[str, Any] = {
        "output_dir": "out",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 3,
        "num_train_epochs": 1,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "max_length": 64,
        "max_new_tokens": 8,
        "generation_batch_size": 4,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SPINConfig(**{**defaults, **overrides})


def build(model: Any, *, overrides: dict[str, Any] | None = None, **kwargs: Any) -> SPINTrainer:
    """Return a self-play trainer on six rows."""
    kwargs.setdefault("train_dataset", tiny.sft(6))
    kwargs.setdefault("processing_class", tiny.tokenizer())
    return SPINTrainer(model, args=settings(**(overrides or {})), **kwargs)


def logged(trainer: SPINTrainer, key: str = "loss") -> list[float]:
    """Return the values that the last `train()` logged under a key, step by step."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def store_of(trainer: SPINTrainer) -> GenerationStore:
    """Return the folder with a trainer's answers to its training prompts."""
    (folder,) = Path(trainer.args.output_dir, "generations").glob("train-*")
    return GenerationStore(folder)


def starts_at_its_opponent(trainer: SPINTrainer, loss_type: str = "sigmoid") -> None:
    """Check that the first step had every log-ratio at 0, and that training then moved.

    Log-probs that were precomputed come from other batches, whose sums are ordered differently.
    """
    assert logged(trainer)[0] == pytest.approx(AT_ZERO[loss_type], abs=1e-5)
    for key in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert logged(trainer, key)[0] == pytest.approx(0.0, abs=1e-5 if trainer.precompute_ref_logps else 0.0)
    assert abs(logged(trainer)[-1] - AT_ZERO[loss_type]) > 1e-4


def copy_of(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of a model's current weights, bit for bit."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def llama_with(state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Return a separate model with these weights, which no trainer has touched."""
    model = tiny.model()
    model.load_state_dict(state)
    return model


def logp(model: Any, prompt: list[int], response: list[int]) -> float:
    """Return log p(response | prompt) from the logits of one unpadded row, without our code or TRL's."""
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(dim=-1)
    return sum(float(scores[len(prompt) - 1 + i, token]) for i, token in enumerate(response))


def pairs(trainer: SPINTrainer) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Return the rows that were trained on, each with its generated response."""
    for row in trainer.train_dataset:
        yield row, trainer.data_collator.generations[(row["key"], row["iteration"], row["sample"])]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of tensors are equal bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stored(llama_folder: Path, **kwargs: Any) -> GenerationStore:
    """Return generations of the tiny Llama for the six rows."""
    trainer = build(str(llama_folder), overrides={"output_dir": "made"}, **kwargs)
    trainer.train()
    return store_of(trainer)
