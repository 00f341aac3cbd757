"""The generate phase answers the training prompts once, and records what it did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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
    assert entry["tokens"] == entry["compute"]["sampled"] == made
    assert entry["compute"]["prefilled"] == sum(len(row["prompt_ids"]) for row in run.self_play_rows())
    assert {Path(name).name for name in entry["files"]} >= {"generations.json"}
    generate_iteration(run, 0)
    assert loads == [run.given_model]
    assert len([line for line in run.journal.entries() if line["phase"] == "generate"]) == 1


def test_only_the_process_that_records_reads_all_generations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others read its decision in the journal. The one that reads has no table of all generations."""
    read: list[str] = []

    def counted(name: str) -> None:
        method = getattr(GenerationStore, name)
        monkeypatch.setattr(GenerationStore, name, lambda store: read.append(name) or method(store))

    counted("shards")
    counted("table")
    other = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(generate, "PartialState", lambda: other)
        patch.setattr(Run, "record", lambda *_, **__: None)
        generate_iteration(run, 0)
    assert read == []
    generate_iteration(run, 0)
    assert read == ["shards"]
    entry = run.done(Step.GENERATE, "iteration-0")
    assert entry is not None
    assert entry["responses"] == len(run.self_play_rows())
