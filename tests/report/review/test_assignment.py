"""The assignment of answers to sides is read back as written, and damage is named with a way out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from messages import refused
from reviewed import answered_run, with_page
from spin_trl.errors import RunDirectoryError
from spin_trl.report.review.assignment import read_assignment, run_id
from spin_trl.run.directory import RunDirectory


def test_without_a_file_there_is_no_assignment(tmp_path: Path) -> None:
    assert read_assignment(tmp_path / "review.json") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"pairs": [{"id": "a"}]},
        {"pairs": [{"id": "a", "key": "k", "against": "previous", "side": "middle"}]},
        {"pairs": [{"id": "a", "key": "k", "against": "nobody", "side": "left"}]},
        {"pairs": [{"id": "a", "key": 3, "against": "start", "side": "left"}]},
        {"pairs": [{"id": "a", "key": "k", "against": "start", "side": "left"}] * 2},
        {"pairs": None},
        {"answers": "loud"},
        {"identical": {"previous": "many"}},
        {"identical": {"previous": 1e999}},
        {"page": 7},
        {"stage": "iteration-0"},
        {"stage": "../start"},
    ],
)
def test_damage_is_named_with_a_way_out(tmp_path: Path, damage: dict[str, Any]) -> None:
    directory = answered_run(tmp_path / "run")
    with_page(directory)
    path = directory.assignment("iteration-1")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | damage), encoding="utf-8")
    with refused(RunDirectoryError, "review.json", "review.html", "spin-trl review"):
        read_assignment(path)
    path.write_text("{", encoding="utf-8")
    with refused(RunDirectoryError, "review.json", "spin-trl review"):
        read_assignment(path)


def test_a_run_keeps_its_identifier_when_it_is_moved_and_another_run_has_another(tmp_path: Path) -> None:
    one = answered_run(tmp_path / "run")
    shutil.copytree(one.path, tmp_path / "moved")
    assert run_id(RunDirectory(tmp_path / "moved")) == run_id(one)
    entries = [{"phase": "evaluate", "stage": "start", "time": 1.9e9, "seconds": 2.0}]
    (tmp_path / "moved" / "journal.jsonl").write_text(json.dumps(entries[0]) + "\n", encoding="utf-8")
    assert run_id(RunDirectory(tmp_path / "moved")) != run_id(one)
    (tmp_path / "moved" / "journal.jsonl").write_text("", encoding="utf-8")
    with refused(RunDirectoryError, tmp_path / "moved"):
        run_id(RunDirectory(tmp_path / "moved"))
