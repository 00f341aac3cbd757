"""Fixtures for models of a run that are at hand: a model that vLLM can serve, a prepared run, and a record of what is loaded
and served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny
from runs import build
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.play.answering import at_hand as module
from spin_trl.play.prepare import prepare_data
from spin_trl.run.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Llama with heads of a size that vLLM computes on a CPU."""
    model = tiny.model("llama", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    return tiny.save(tmp_path_factory.mktemp("served"), model)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the models that are loaded, and the servers that are started and ended."""
    found: list[str] = []
    load = module.load_policy

    def counted(path: str, *arguments: Any, **kwargs: Any) -> Any:
        found.append(path)
        return load(path, *arguments, **kwargs)

    @contextlib.contextmanager
    def served(run: Run, path: str, eos_token_ids: Any) -> Iterator[str]:
        found.append("served")
        try:
            yield "engine"
        finally:
            found.append("ended")

    monkeypatch.setattr(module, "load_policy", counted)
    monkeypatch.setattr(module, "serve", served)
    return found


@dataclass
class FinalEngine(TransformersEngine):
    """An engine of this process whose responses are final, as those of servers are."""

    repeats: bool = False


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serve models in this process (with `generation_continuous`), and record whose servers are started."""
    found: list[str] = []

    @contextlib.contextmanager
    def served(run: Run, path: str, eos_token_ids: Any) -> Iterator[FinalEngine]:
        found.append("start" if path == run.given_model else Path(path).parent.name)
        yield FinalEngine(module.load_policy(path, run.args).eval(), eos_token_ids, int(run.tokenizer().pad_token_id))

    monkeypatch.setattr(module, "serve", served)
    return found


@pytest.fixture
def run(llama_folder: Path) -> Run:
    """Return a run whose data is prepared."""
    session = build(llama_folder)
    session.directory.claim("continue")
    prepare_data(session.state, session.train_dataset, None)
    return session.state
