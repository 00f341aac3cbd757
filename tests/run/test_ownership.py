"""A run directory's marker lists what belongs to the run, and everything else is left unchanged."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import yaml

from messages import refused
from runs import contents
from spin_trl.errors import RunDirectoryError
from spin_trl.run.directory import RunDirectory
from spin_trl.run.marker import COMPARISON, MARKER
from spin_trl.run.ownership import Ownership

ARCHIVES = Path(__file__).parents[1] / "data" / "runs-0.1.0"


def written(path: Path, text: str = "mine") -> Path:
    """Write a file, creating its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def claimed(path: Path) -> RunDirectory:
    """Return a run that owns its journal, its data and iteration 0."""
    directory = RunDirectory(path)
    directory.ownership.claim()
    written(directory.own("journal.jsonl"), '{"phase": "prepare", "stage": "data"}\n')
    written(directory.own("data/train") / "state.json")
    written(directory.own("iteration-0") / "metrics.json", "{}")
    return directory


def entries(path: Path) -> dict[str, str]:
    """Return the entries in the marker."""
    return json.loads((path / MARKER).read_text(encoding="utf-8"))["entries"]


def earlier(tmp_path: Path, name: str = "full-finished") -> Path:
    """Write a run of version 0.1.0."""
    with tarfile.open(ARCHIVES / f"{name}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


# ---- claiming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [[], [".git/config"], ["lost+found/x"], ["slurm-12.out", "train.err", "nohup.log"], ["my.yaml"]]
)
def test_a_run_begins_in_a_folder_that_holds_nothing_of_weight(names: list[str], tmp_path: Path) -> None:
    for name in names:
        written(tmp_path / name)
    before = contents(tmp_path)
    Ownership(tmp_path).claim(tmp_path / "my.yaml")
    assert entries(tmp_path) == {}
    assert contents(tmp_path, ignore=(MARKER,)) == before


def test_a_run_begins_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    Ownership(tmp_path / "a" / "b").claim()
    assert entries(tmp_path / "a" / "b") == {}


@pytest.mark.parametrize(
    "name", ["data/rows.jsonl", "iteration-0/x", "notes.md", "recipe.yaml", "spin.yaml", "logs.out/x", "journal.jsonl"]
)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    """The message names the files, and a free folder."""
    run = tmp_path / "run"
    written(run / name)
    written(tmp_path / "my.yaml")
    (tmp_path / "run-2").mkdir()
    with refused(RunDirectoryError, run, name.partition("/")[0], "`run_dir`", tmp_path / "run-3"):
        Ownership(run).claim(tmp_path / "my.yaml")
    assert list(contents(run)) == [name]


def test_a_run_does_not_begin_in_a_folder_of_another_one(tmp_path: Path) -> None:
    """It would be removed with that folder. A run may start next to what another one owns; a comparison contains runs."""
    claimed(tmp_path / "run")
    with refused(RunDirectoryError, tmp_path / "run/iteration-0/a/second", "`run_dir`", tmp_path / "run-2"):
        Ownership(tmp_path / "run" / "iteration-0" / "a" / "second").claim()
    Ownership(tmp_path / "run" / "second").claim()
    comparison = Ownership(tmp_path / "comparison", COMPARISON)
    comparison.claim()
    comparison.own("seed-0").mkdir()
    Ownership(tmp_path / "comparison" / "seed-0" / "arm").claim()


def test_a_run_goes_on_whatever_was_added(tmp_path: Path) -> None:
    claimed(tmp_path)
    written(tmp_path / "notes" / "later.md")
    Ownership(tmp_path).claim()
    assert "notes" not in entries(tmp_path)


def test_a_comparison_and_a_run_do_not_share_a_folder(tmp_path: Path) -> None:
    Ownership(tmp_path / "c", COMPARISON).claim()
    with refused(RunDirectoryError, tmp_path / "c", "comparison", "`run_dir`", tmp_path / "c-2"):
        Ownership(tmp_path / "c").claim()
    claimed(tmp_path / "r")
    with refused(RunDirectoryError, tmp_path / "r", "a run", "`run_dir`", tmp_path / "r-2"):
        Ownership(tmp_path / "r", COMPARISON).claim()


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_an_entry_is_written_down_before_it_is_there(tmp_path: Path) -> None:
    directory = claimed(tmp_path)
    place = directory.own("hub")
    assert entries(tmp_path)["hub"] == "hub"
    assert not place.exists()


def test_what_the_user_has_put_there_keeps_its_name(tmp_path: Path) -> None:
    """The run's own entry permanently gets another name, for readers and writers."""
    directory = claimed(tmp_path)
    users = [written(tmp_path / "report.html"), written(tmp_path / "iteration-1" / "metrics.json", '{"nll": 0}')]
    (tmp_path / "best.json").symlink_to(tmp_path / "nowhere")
    assert directory.own("report.html") == directory.report == tmp_path / "spin_trl-report.html"
    assert directory.best == tmp_path / "spin_trl-best.json"
    assert not directory.metrics("iteration-1").exists()
    assert directory.own("iteration-1/model") == directory.model("iteration-1")
    directory.stage("iteration-1").mkdir()
    assert directory.iterations() == [0, 1]
    users[0].unlink()
    assert directory.report == tmp_path / "spin_trl-report.html"
    assert users[1].read_text(encoding="utf-8") == '{"nll": 0}'


def test_several_processes_may_write_down_entries_at_a_time(tmp_path: Path) -> None:
    """For example, a report may be written while a run is playing."""
    claimed(tmp_path)
    names = [f"iteration-{number}" for number in range(1, 33)]
    threads = [threading.Thread(target=Ownership(tmp_path).own, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) <= set(entries(tmp_path))


# ---- removing --------------------------------------------------------------------------------------------------------


def test_what_the_run_owns_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Links are removed, but not their targets."""
    directory = claimed(tmp_path / "run")
    others = [written(tmp_path / "run" / name) for name in ("notes.md", "hub/mine.md", "iteration-7/x", ".lock")]
    target = written(tmp_path / "elsewhere" / "weights")
    shutil.rmtree(directory.stage("iteration-0"))
    directory.stage("iteration-0").symlink_to(target.parent)
    (directory.train_rows / "link").symlink_to(target.parent)
    directory.own("plot.png").symlink_to(target)
    directory.clear()
    assert all(path.is_file() for path in (*others, target))
    assert sorted(path.name for path in directory.path.iterdir()) == [
        ".lock", MARKER, "hub", "iteration-7", "notes.md",
    ]  # fmt: skip
    assert entries(directory.path) == {}


def test_a_run_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    directory = claimed(tmp_path / "run")
    directory.clear()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == [MARKER]
    assert (tmp_path / "run").is_symlink()


def test_without_a_marker_nothing_is_removed(tmp_path: Path) -> None:
    written(tmp_path / "data" / "rows.jsonl")
    written(tmp_path / "journal.jsonl", '{"phase": "train", "stage": "iteration-0"}\n')
    with refused(RunDirectoryError, f"no {MARKER}", tmp_path):
        RunDirectory(tmp_path).clear()
    assert len(contents(tmp_path)) == 2


# ---- runs of version 0.1.0 -------------------------------------------------------------------------------------------


def test_an_earlier_run_is_adopted(tmp_path: Path) -> None:
    run = earlier(tmp_path)
    before = contents(run)
    Ownership(run).claim()
    expected = {path.name for path in run.iterdir()} - {".lock", ".phase.lock", MARKER}
    assert set(entries(run)) == expected >= {"data", "start", "best", "iteration-1", "recipe.yaml", "journal.jsonl"}
    assert contents(run, ignore=(MARKER,)) == before
    RunDirectory(run).clear()
    assert {path.name for path in run.iterdir()} == {".lock", ".phase.lock", MARKER}


@pytest.mark.parametrize("name", ["data/train.jsonl", "hub/notes.md", "iteration-0/model/notes.md"])
def test_an_earlier_run_is_not_removed_with_files_of_the_users(name: str, tmp_path: Path) -> None:
    """Version 0.1.0 wrote into existing folders."""
    run = earlier(tmp_path)
    written(run / name)
    before = contents(run)
    with refused(RunDirectoryError, run, name, "`run_dir`", tmp_path / "run-2"):
        RunDirectory(run).clear()
    assert contents(run, ignore=(MARKER,)) == before


def test_a_recipe_that_an_earlier_run_has_not_written_stays_the_users(tmp_path: Path) -> None:
    run = earlier(tmp_path)
    text = "# my notes\n" + (run / "recipe.yaml").read_text(encoding="utf-8")
    written(run / "recipe.yaml", text)
    Ownership(run).claim()
    directory = RunDirectory(run)
    assert directory.recipe == run / "spin_trl-recipe.yaml"
    assert yaml.safe_load(directory.recipe.read_text(encoding="utf-8")) == yaml.safe_load(text)
    directory.clear()
    assert (run / "recipe.yaml").read_text(encoding="utf-8") == text


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a [b] *c?", "line\nbreak", "ünï", "{x}"])
def test_a_run_directory_may_have_any_name(name: str, tmp_path: Path) -> None:
    """This holds for any name that the process can encode; if file names are ASCII, the error names a way out."""
    if not name.isascii() and sys.getfilesystemencoding() == "ascii":
        with refused(RunDirectoryError, "PYTHONUTF8=1"):
            claimed(tmp_path / name)
        return
    directory = claimed(tmp_path / name)
    assert directory.iterations() == [0]
    directory.clear()
    assert [path.name for path in directory.path.iterdir()] == [MARKER]


def test_the_home_may_be_written_as_a_shell_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDirectory("~/run").path == tmp_path / "run"
    # Anything that expands paths again, as `datasets` does, must leave this one alone.
    assert RunDirectory("~nobody-of-this-name/run").path == Path.cwd() / "~nobody-of-this-name/run"
