"""Every reader of a damaged JSON file of a run raises an error with the file, the key and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from messages import refused
from runs import build
from spin_trl.errors import RunDirectoryError
from spin_trl.play.console import table_so_far
from spin_trl.play.evaluate import LOGPS, _recorded_logps
from spin_trl.play.same_start import is_same_start
from spin_trl.run.directory import RunDirectory
from spin_trl.run.objects import best_stage, read_named_numbers, read_numbers, read_object
from spin_trl.run.run import BEST, Run, find_stage
from spin_trl.run.stage import START

NO_OBJECT = ["", "{", "[1]", "3", '"text"', "\0\0", "[" * 100_000]
"""Contents of a file that was truncated, zeroed, or replaced by different JSON."""


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("content", NO_OBJECT, ids=lambda one: repr(one[:8]))
def test_what_is_no_object_is_refused_with_the_file(content: str, tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.json", content)
    for read in (read_object, read_numbers, read_named_numbers):
        with refused(RunDirectoryError, path, "spin-trl run"):
            read(path)


def test_bytes_that_are_no_text_are_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes(b'{"nll": "\xff"}')
    with refused(RunDirectoryError, tmp_path / "metrics.json"):
        read_object(tmp_path / "metrics.json")


def test_numbers_are_read_by_name_and_null_stands_for_none(tmp_path: Path) -> None:
    assert read_numbers(tmp_path / "none.json") == {}
    assert read_numbers(written(tmp_path / "a.json", '{"nll": 1.5, "score": null}')) == {"nll": 1.5}
    assert read_named_numbers(written(tmp_path / "b.json", '{"nll": {"key": 2}}')) == {"nll": {"key": 2}}
    for wrong in ('"1"', "true", "[1]", '{"a": 1}'):
        with refused(RunDirectoryError, "c.json", "`nll`"):
            read_numbers(written(tmp_path / "c.json", f'{{"nll": {wrong}}}'))


def readers(run: Run) -> dict[str, Callable[[], Any]]:
    """Return all readers of the best stage."""
    return {
        "directory": lambda: best_stage(run.directory),
        "stage": lambda: find_stage(run, BEST),
        "table": lambda: table_so_far(run, 0, 100, 40),
    }


@pytest.mark.parametrize("content", [*NO_OBJECT, '{"a": 1}', '{"stage": 3}', '{"stage": "itemation-0"}'])
@pytest.mark.parametrize("reader", ["directory", "stage", "table"])
def test_a_best_json_that_names_no_stage_is_refused(reader: str, content: str, llama_folder: Path) -> None:
    run = build(llama_folder).state
    written(run.directory.metrics(START), json.dumps({"nll": 1.0}))
    written(run.directory.best, content)
    with refused(RunDirectoryError, run.directory.best, "spin-trl run"):
        readers(run)[reader]()


def test_no_best_json_is_no_best(tmp_path: Path) -> None:
    assert best_stage(RunDirectory(tmp_path)) is None


@pytest.mark.parametrize(
    ("content", "key"), [("", LOGPS), ("{}", "'k'"), ('{"k": 1}', "`k`"), ('{"k": {"real": -1.0}}', "`generated`")]
)
def test_log_probabilities_of_the_opponent_that_are_damaged_are_refused(
    content: str, key: str, tmp_path: Path
) -> None:
    with refused(RunDirectoryError, LOGPS, key, "spin-trl run"):
        _recorded_logps(written(tmp_path / LOGPS, content), ["k"])


@pytest.mark.parametrize("content", ["", "[1]", '{"num_shards": 1}', '{"model": 3}'])
def test_a_start_cannot_be_compared_by_a_damaged_manifest(content: str, llama_folder: Path) -> None:
    """If another manifest is intact, the model is read from that one."""
    run = build(llama_folder).state
    path = written(run.directory.held_out(START) / "sampled" / "generations.json", content)
    with refused(RunDirectoryError, path):
        is_same_start(run)
    written(run.directory.generations("iteration-0") / "generations.json", json.dumps({"model": "0" * 18}))
    assert not is_same_start(run)
