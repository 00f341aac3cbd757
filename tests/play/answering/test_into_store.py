"""A model of a run is loaded when it is needed, once, and not at all if its answers already exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from spin_trl.generation.store import GenerationStore
from spin_trl.play.answering import into_store
from spin_trl.play.answering.at_hand import at_hand
from spin_trl.play.answering.into_store import answer_into
from spin_trl.run.run import Run


def test_answers_that_are_there_need_no_model(run: Run, loads: list[str], tmp_path: Path) -> None:
    """The prompts, settings and iteration are those of the first call."""
    with at_hand(run, run.given_model) as load:
        folder = tmp_path / "store"
        assert answer_into(run, load, run.rows(), folder, 0, "answers", temperature=0.0) > 0
        found = {row["key"] for row in GenerationStore(folder).table().to_pylist()}
        assert found == set(run.rows()["key"])
    with at_hand(run, "a model that is gone") as load:
        assert answer_into(run, load, run.rows(), folder, 0, "answers", temperature=0.0) == 0.0
    assert loads == [run.given_model]
    assert GenerationStore(folder).manifest()["sampling"]["temperature"] == 0.0


def test_an_unquantised_base_is_handed_on_for_the_manifest(
    run: Run, loads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only vLLM generates with one; the digest is that of the quantised model that training computes with."""
    handed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        into_store, "generate", lambda *_, **given: handed.append((run.args.engine, given["unquantised_base"]))
    )
    monkeypatch.setattr(into_store, "quantises", lambda _: True)
    for engine in ("transformers", "vllm"):
        run.args.engine = engine
        with at_hand(run, run.given_model) as model:
            answer_into(run, model, run.rows(), tmp_path / engine, 0, "answers")
    assert handed == [("transformers", False), ("vllm", True)]
