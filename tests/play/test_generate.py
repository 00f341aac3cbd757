"""A model of a run is loaded when it is needed, once, and not at all if its answers already exist."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runs import answers
from spin_trl.generation.store import GenerationStore
from spin_trl.play import generate
from spin_trl.play.answering.at_hand import at_hand
from spin_trl.play.generate import answer_into, generate_iteration
from spin_trl.run.journal import Step
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


def test_the_phase_is_done_once_and_the_journal_has_its_tokens(run: Run, loads: list[str]) -> None:
    generate_iteration(run, 0)
    made = sum(map(len, answers(run.directory.path, "iteration-0").values()))
    entry = run.done(Step.GENERATE, "iteration-0")
    assert entry is not None
    assert entry["tokens"] == made
    assert {Path(name).name for name in entry["files"]} >= {"generations.json"}
    generate_iteration(run, 0)
    assert loads == [run.given_model]
    assert len([line for line in run.journal.entries() if line["phase"] == "generate"]) == 1


def test_an_unquantised_base_is_handed_on_for_the_manifest(
    run: Run, loads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only vLLM generates with one; the digest is that of the quantised model that training computes with."""
    handed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        generate, "generate", lambda *_, **given: handed.append((run.args.engine, given["unquantised_base"]))
    )
    monkeypatch.setattr(generate, "quantises", lambda _: True)
    for engine in ("transformers", "vllm"):
        run.args.engine = engine
        with at_hand(run, run.given_model) as model:
            answer_into(run, model, run.rows(), tmp_path / engine, 0, "answers")
    assert handed == [("transformers", False), ("vllm", True)]


def test_only_the_process_that_records_reads_all_generations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others read its decision in the journal; with many generations, every process would otherwise need memory
    for all of them.
    """
    read: list[Path] = []
    table = GenerationStore.table

    def counted(store: GenerationStore) -> Any:
        read.append(store.folder)
        return table(store)

    monkeypatch.setattr(GenerationStore, "table", counted)
    other = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(generate, "PartialState", lambda: other)
        patch.setattr(Run, "record", lambda *_, **__: None)
        generate_iteration(run, 0)
    assert read == []
    generate_iteration(run, 0)
    assert {folder.name for folder in read} == {"generations"}
    entry = run.done(Step.GENERATE, "iteration-0")
    assert entry is not None
    assert entry["responses"] == len(run.self_play_rows())
