"""Runs whose generations servers make that exist already, up to the point where one of their models has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from runs import build
from spin_trl.generation.engines.server import ServerEngine
from spin_trl.generation.store import GenerationStore
from spin_trl.play.answering.at_hand import at_hand
from spin_trl.play.prepare import prepare_data
from spin_trl.run.run import Run

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


class HasURL(Protocol):
    """A server."""

    @property
    def url(self) -> str: ...


def shaken(model: Any, seed: int, by: float) -> Any:
    """Add noise to all weights of a model or, if it has one, of its adapter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    return model


def prepared(folder: Path, servers: Sequence[HasURL], **settings: Any) -> Run:
    """Return a run at servers, whose data is prepared."""
    urls, rows = [one.url for one in servers], tiny.sft(6)
    session = build(folder, engine="server", server_urls=urls, train_dataset=rows, **settings)
    session.directory.claim("continue")
    prepare_data(session.state, session.train_dataset, None)
    return session.state


def trained(run: Run, seed: int = 1, by: float = 0.1) -> str:
    """Save a model as that of iteration 0, or an adapter in a run with LoRA, and return its folder."""
    model = run.directory.own("iteration-0") / "model"
    start = AutoModelForCausalLM.from_pretrained(str(run.model))
    shaken(adapted(start) if run.peft_config else start, seed, by).save_pretrained(model)
    return run.model_of("iteration-0")


def adapted(model: Any) -> Any:
    """Return a model with a new adapter, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(model, LORA)


def engine(run: Run, path: str) -> ServerEngine:
    """Return the engine that answers with a model, once its servers have been checked."""
    with at_hand(run, path) as model:
        made = model.engine(run.rows(), GenerationStore("store"))
    assert isinstance(made, ServerEngine)
    return made
