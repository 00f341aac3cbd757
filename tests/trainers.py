"""Self-play trainers on a few rows, what they log, and where they keep what they generate."""

from pathlib import Path
from typing import Any

import tiny
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.generation.store import GenerationStore

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def settings(**overrides: Any) -> SPINConfig:
    """Two steps of three pairs on the CPU, with a learning rate that moves the tiny model far."""
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
    """A self-play trainer on six rows."""
    kwargs.setdefault("train_dataset", tiny.sft(6))
    kwargs.setdefault("processing_class", tiny.tokenizer())
    return SPINTrainer(model, args=settings(**(overrides or {})), **kwargs)


def logged(trainer: SPINTrainer, key: str = "loss") -> list[float]:
    """What the last `train()` logged under a key, step by step."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def store_of(trainer: SPINTrainer) -> GenerationStore:
    """Where a trainer kept the answers to its training prompts."""
    (folder,) = Path(trainer.args.output_dir, "generations").glob("train-*")
    return GenerationStore(folder)
