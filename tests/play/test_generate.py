"""The generate phase answers the training prompts once, and records what it did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runs import answers
from spin_trl.generation.store import GenerationStore
from spin_trl.play import generate
from spin_trl.play.generate import generate_iteration
from spin_trl.run.journal import Step
from spin_trl.run.run import Run


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
