"""The paths of a run are the same in every phase, regardless of existing files of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from messages import refused
from spin_trl.errors import RunDirectoryError
from spin_trl.run.directory import LOCK, PHASE_LOCK, RunDirectory


def claimed(path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.claim("continue")
    return directory


def test_a_run_has_the_layout_that_is_documented() -> None:
    """Scripts and later versions rely on it."""
    run = RunDirectory("run")
    found = {
        "recipe.yaml": run.recipe, "journal.jsonl": run.journal, "data/train": run.train_rows,
        "data/held-out": run.held_out_rows, "best.json": run.best, "best": run.best_link, "table.txt": run.table,
        "plot.png": run.plot, "report.html": run.report,
        "baseline": run.baselines, "hub/dataset/README.md": run.dataset_card(), "start/tokenizer": run.tokenizer(),
        "iteration-2/model": run.model("iteration-2"), "iteration-2/generations": run.generations("iteration-2"),
        "iteration-2/train": run.training("iteration-2"), "iteration-2/metrics.json": run.metrics("iteration-2"),
        "iteration-2/samples.jsonl": run.samples("iteration-2"),
        "iteration-2/histograms.json": run.histograms("iteration-2"),
        "baseline/sft/iteration-0/held-out/values.json": run.values("baseline/sft/iteration-0"),
        "start/lm-eval": run.benchmarks("start"),
    }  # fmt: skip
    assert {name: path for name, path in found.items() if path != Path("run", name)} == {}
    assert not Path("run").exists()  # asking for a path creates nothing


def test_a_folder_of_the_users_keeps_its_name_and_the_runs_gets_another(tmp_path: Path) -> None:
    """This applies to all paths below it, too."""
    directory = claimed(tmp_path)
    (tmp_path / "iteration-0").mkdir()
    place = directory.own("iteration-0")
    assert place.parent == tmp_path
    assert place.name != "iteration-0"
    assert directory.model("iteration-0") == place / "model"
    assert directory.own("iteration-0/train") == place / "train"
    (place / "model").mkdir(parents=True)
    assert directory.iterations() == [0]


def test_stages_are_listed_in_the_order_in_which_they_are_played(tmp_path: Path) -> None:
    """10 comes after 9; folders that only look like stages are ignored."""
    directory = claimed(tmp_path)
    for name in ("iteration-10", "iteration-9", "baseline/sft/iteration-1", "baseline/sft/iteration-0",
                 "baseline/sft-smoothing-0.1/iteration-0", "baseline/sft/iteration-x", "baseline/sft/notes"):  # fmt: skip
        directory.own(name).mkdir(parents=True)
    (tmp_path / "iteration-3").mkdir()  # the user's
    assert directory.stages() == [
        "start", "iteration-9", "iteration-10", "baseline/sft/iteration-0", "baseline/sft/iteration-1",
        "baseline/sft-smoothing-0.1/iteration-0",
    ]  # fmt: skip


def begun(path: Path) -> RunDirectory:
    """Return a directory with a run's frozen settings and a file of the user's."""
    directory = claimed(path)
    directory.own("recipe.yaml").write_text("beta: 0.1", encoding="utf-8")
    directory.own("iteration-0").mkdir()
    (path / "notes.txt").touch()
    return directory


def left(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}


def test_what_becomes_of_a_run_that_is_there_is_a_setting(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    directory.claim("continue")
    with refused(RunDirectoryError, tmp_path, "`existing_run`", "`fail`"):
        directory.claim("fail")
    assert left(tmp_path) == {"recipe.yaml", "iteration-0", "notes.txt"}
    directory.claim("overwrite")
    assert left(tmp_path) == {"notes.txt"}
    directory.claim("fail")  # the run has been removed


def test_a_folder_without_a_run_is_taken_also_with_fail(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "new").claim("fail")
    RunDirectory(tmp_path / "new").claim("fail")  # claimed, but nothing has begun
    assert (tmp_path / "new").is_dir()


def test_entries_can_be_kept_when_the_others_go(tmp_path: Path) -> None:
    begun(tmp_path).clear(keep=["recipe.yaml"])
    assert left(tmp_path) == {"recipe.yaml", "notes.txt"}


def test_a_run_and_a_phase_have_locks_of_their_own(tmp_path: Path) -> None:
    """A phase outlives a killed loop."""
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with first.locked():
        with second.locked(PHASE_LOCK):
            pass
        with refused(RunDirectoryError, tmp_path / "run"), second.locked(LOCK):
            pass
    with second.locked():
        pass


def test_a_path_that_can_be_no_folder_is_refused_when_it_is_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(RunDirectoryError, path), RunDirectory(path).locked():
            pass


def test_the_home_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDirectory("~/runs/a").recipe == tmp_path / "runs/a/recipe.yaml"


def test_a_folder_without_a_run_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    """A recipe alone is not a run; a directory with a journal is, as in version 0.1.0, and so is one with a marker."""
    with refused(RunDirectoryError, tmp_path / "nowhere", "folder", "recipe.yaml"):
        RunDirectory(tmp_path / "nowhere").check_run()
    for add in (lambda: None, lambda: (tmp_path / "recipe.yaml").write_text("beta: 0.1", encoding="utf-8")):
        add()
        with refused(RunDirectoryError, tmp_path, "journal.jsonl", ".spin_trl.json", "recipe.yaml"):
            RunDirectory(tmp_path).check_run()
    claimed(tmp_path / "begun").check_run()
    (tmp_path / "journal.jsonl").touch()
    RunDirectory(tmp_path).check_run()
