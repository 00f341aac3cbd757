"""A model of a run is loaded or served when it is needed, once, one way at a time, and freed afterwards."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import torch

import tiny
from messages import refused
from spin_trl.errors import DivergedError
from spin_trl.generation.store import GenerationStore
from spin_trl.play.answering.at_hand import at_hand
from spin_trl.run.run import Run


def test_a_model_is_loaded_at_the_first_call_alone(run: Run, loads: list[str]) -> None:
    with at_hand(run, run.given_model) as load:
        assert loads == []
        model, accelerator = load()
        assert load()[0] is model
        assert not model.training
        assert next(model.parameters()).device == accelerator.device
    assert loads == [run.given_model]


def test_its_memory_is_given_back(run: Run) -> None:
    with at_hand(run, run.given_model) as load:
        model = weakref.ref(load()[0])
    del load
    gc.collect()
    assert model() is None


def test_a_served_model_is_served_once_and_ended_before_it_is_loaded(
    run: Run, loads: list[str], tmp_path: Path
) -> None:
    """The GPU's memory is the servers' or this process's. For its digest the model is loaded once, and freed."""
    run.args.engine = "vllm"
    rows, store, path = run.rows(), GenerationStore(tmp_path / "store"), run.given_model
    with at_hand(run, path) as policy:
        assert policy.asked(rows) == policy.asked(rows)
        assert policy.engine(rows, store) == policy.engine(rows, store) == "engine"
        assert loads == [path, "served"]
        policy()
        assert loads == [path, "served", "ended", path]
        policy.engine(rows, store)
    assert loads == [path, "served", "ended", path, "served", "ended"]


def test_a_model_that_has_diverged_is_not_served(run: Run, loads: list[str], tmp_path: Path) -> None:
    """Whatever serves it would fail, or answer with anything, and the gate would not hear of it."""
    model = tiny.model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    path = str(tiny.save(tmp_path / "broken", model))
    run.args.engine = "vllm"
    with at_hand(run, path) as policy, refused(DivergedError, "NaN", "lm_head.weight"):
        policy.asked(run.rows())
    assert loads == [path]


def test_a_served_model_has_the_digest_of_the_loaded_one(run: Run) -> None:
    with at_hand(run, run.given_model) as policy:
        expected = policy.asked(run.rows())
    run.args.engine = "vllm"
    with at_hand(run, run.given_model) as policy:
        assert policy.asked(run.rows()) == expected
