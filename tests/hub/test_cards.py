"""The cost of writing cards grows only linearly with the number of iterations."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import made_up
from messages import names
from spin_trl.hub.cards import accepted, write_cards
from spin_trl.run.directory import RunDirectory

WATCHED: list[list[str]] = []
"""Lists that record opened paths. An audit hook can't be removed, so there is only one."""


def _note(event: str, arguments: tuple) -> None:
    if event == "open" and WATCHED and isinstance(arguments[0], str):
        WATCHED[-1].append(arguments[0])


sys.addaudithook(_note)


def opened(folder: Path, function: Callable[[], object]) -> list[str]:
    """Return the names of the files in a folder that a function opens, once per opening."""
    WATCHED.append([])
    try:
        function()
    finally:
        paths = WATCHED.pop()
    return [Path(path).name for path in paths if Path(path).is_relative_to(folder)]


def run_of(path: Path, iterations: int) -> RunDirectory:
    """Return a run with `iterations` iterations, each with a model, the opponent's generations and samples."""
    names = [f"iteration-{number}" for number in range(iterations)]
    stages = [made_up.stage("start", range(40)), *(made_up.stage(name, range(50)) for name in names)]
    made_up.write_run(path, made_up.record(*stages, best=names[-1]))
    for name in names:
        for folder in ("model", "generations"):
            (path / name / folder).mkdir()
        (path / name / "model" / "model.safetensors").write_bytes(b"weights")
        manifest = {"model": "0123", "engine": "transformers", "sampling": {"temperature": 1.0}}
        (path / name / "generations" / "generations.json").write_text(json.dumps(manifest), encoding="utf-8")
    return RunDirectory(path)


def test_files_are_opened_in_proportion_to_iterations(tmp_path: Path) -> None:
    counts = []
    for iterations in (2, 4, 8):
        run = run_of(tmp_path / str(iterations), iterations)
        counts.append(len(opened(run.path, lambda run=run: write_cards(run, pairs=False))))
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


def test_an_iteration_that_people_found_worse_is_not_accepted() -> None:
    gate = {"phase": "gate", "time": 2e9, "decision": "continued", "best": "start", "lr_scale": 1.0, "reason": None}
    journal = [
        gate | {"stage": f"iteration-{number}", "opponent": f"iteration-{number}", "rejected": number == 0}
        for number in range(2)
    ]
    stages = [made_up.stage("start", range(40)), *(made_up.stage(f"iteration-{t}", range(50)) for t in range(2))]
    assert [stage.name for stage in accepted(made_up.record(*stages, journal=journal))] == ["iteration-1"]


def test_samples_are_read_again_only_where_they_have_changed(tmp_path: Path) -> None:
    run = run_of(tmp_path, 3)
    assert "samples.jsonl" in opened(tmp_path, lambda: write_cards(run))
    assert "samples.jsonl" not in opened(tmp_path, lambda: write_cards(run))
    changed = json.dumps(made_up.sample(7, generated="Another answer.")) + "\n"
    (tmp_path / "iteration-1" / "samples.jsonl").write_text(changed, encoding="utf-8")
    assert "samples.jsonl" in opened(tmp_path, lambda: write_cards(run))
    assert "Another answer." in (run.model("iteration-1") / "README.md").read_text(encoding="utf-8")


def test_a_card_says_that_the_opponents_base_was_not_quantised(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)
    manifest = {"model": "0123", "engine": "vllm", "engine_version": "0.31.0", "unquantised_base": True}
    (tmp_path / "iteration-0" / "generations" / "generations.json").write_text(json.dumps(manifest), encoding="utf-8")
    write_cards(run, pairs=False)
    card = (run.model("iteration-0") / "README.md").read_text(encoding="utf-8")
    assert names(card, "engine", "vllm 0.31.0", "unquantised")


def test_a_card_that_says_the_same_stays_as_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, 3)
    paths = write_cards(run)
    (run.model("iteration-1") / "README.md").write_text("Something else.", encoding="utf-8")
    before = [path.stat().st_ino for path in paths]
    assert write_cards(run) == paths
    assert [path.stat().st_ino == old for path, old in zip(paths, before, strict=True)] == [True, False, True]
