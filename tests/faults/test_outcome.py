"""A run's results are compared by bytes, except times; a trial has one of five verdicts."""

import json
from pathlib import Path

import pytest

from faults.acts import Ended
from faults.outcome import (
    Outcome,
    Table,
    Verdict,
    differences,
    lost,
    of_going_on,
    results_of,
    says_the_same,
    with_traceback,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write files of a run that are compared, that are not compared, and that were not finished."""
    contents = {
        "journal.jsonl": json.dumps(
            {"phase": "train", "stage": "iteration-0", "time": 1.0, "seconds": 2.0, "steps": 3}
        ),
        "iteration-0/model/model.safetensors": "weights",
        "iteration-0/model/adapter_config.json": json.dumps({"target_modules": ["q_proj", "v_proj"]}),
        "iteration-0/model/README.md": "card",
        "iteration-0/generations/shard-00000.parquet": "generations",
        "iteration-0/metrics.json": "{}",
        "iteration-0/train/checkpoint-1/model.safetensors": "checkpoint",
        "iteration-0/.model.tmp/model.safetensors": "unfinished",
        "report.html": "report",
    }
    for name, content in contents.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (tmp_path / "run" / "best").symlink_to("iteration-0/model")
    return tmp_path


def test_weights_generations_figures_and_decisions_are_compared(folder: Path) -> None:
    assert sorted(results_of(folder)) == [
        "run/best",
        "run/iteration-0/generations/shard-00000.parquet",
        "run/iteration-0/metrics.json",
        "run/iteration-0/model/adapter_config.json",
        "run/iteration-0/model/model.safetensors",
        "run/journal.jsonl",
    ]


@pytest.mark.parametrize(
    ("path", "content", "differs"),
    [
        ("iteration-0/model/model.safetensors", "weightz", True),
        ("journal.jsonl", '{"phase": "train", "stage": "iteration-0", "time": 9, "seconds": 9, "steps": 3}\n', False),
        ("journal.jsonl", '{"phase": "train", "stage": "iteration-0", "time": 1, "seconds": 2, "steps": 4}\n', True),
        ("journal.jsonl", "", True),
        ("iteration-0/model/adapter_config.json", '{"target_modules": ["v_proj", "q_proj"]}', False),
        ("iteration-0/model/adapter_config.json", '{"target_modules": ["q_proj"]}', True),
        ("report.html", "", False),
    ],
)
def test_bytes_are_compared_and_times_are_not(path: str, content: str, differs: bool, folder: Path) -> None:
    before = results_of(folder)
    (folder / "run" / path).write_text(content, encoding="utf-8")
    assert differences(results_of(folder), before) == ([f"run/{path}"] if differs else [])


def test_what_was_right_and_is_gone_is_lost() -> None:
    expected = {"a": "1", "b": "2", "c": "3"}
    assert lost({"a": "1", "b": "other"}, {"b": "other", "c": "3"}, expected) == ["a"]


@pytest.mark.parametrize(
    ("ended", "is_same", "verdict"),
    [
        (Ended(0, "Best: iteration-1"), True, Verdict.SAME),
        (Ended(0, "Best: iteration-1"), False, Verdict.SILENT),
        (Ended(2, "spin-trl: The data has changed."), False, Verdict.LOST),
        (Ended(1, "Traceback (most recent call last):\nKeyError: 1"), True, Verdict.TRACEBACK),
        (Ended(-11, ""), True, Verdict.TRACEBACK),
        (Ended(0, "", hung=True), True, Verdict.TRACEBACK),
        (
            Ended(1, "spin-trl: Unexpected error, KeyError: 1 (a.py:3 in b). The traceback follows."),
            True,
            Verdict.TRACEBACK,
        ),
    ],
)
def test_a_run_that_goes_on_ends_in_the_same_bytes_or_with_a_fault(
    ended: Ended, is_same: bool, verdict: Verdict, folder: Path
) -> None:
    expected = results_of(folder) if is_same else {**results_of(folder), "run/iteration-1/metrics.json": "0"}
    assert of_going_on(folder, ended, expected).verdict is verdict


def test_a_traceback_that_was_kept_is_a_fault_whatever_was_printed(folder: Path) -> None:
    same = Outcome(Verdict.SAME)
    assert with_traceback(folder, same) is same
    kept = 'Traceback (most recent call last):\n  File "/x/spin_trl/play/loop.py", line 7\nKeyError: 1\n'
    (folder / "run" / "traceback.txt").write_text(kept, encoding="utf-8")
    found = with_traceback(folder, same)
    assert found.verdict is Verdict.TRACEBACK
    assert "KeyError: 1" in found.detail


@pytest.mark.parametrize(
    ("name", "is_same"), [("checksums.jsonl", True), ("generations.json", False), ("adapter_config.json", True)]
)
def test_a_step_that_was_played_again_says_the_same(name: str, is_same: bool, tmp_path: Path) -> None:
    """The list of shards has another line for one that was generated again. The shards' content is compared separately."""
    step = {"phase": "generate", "stage": "iteration-0", "tokens": 3}
    before, after = ({**step, "files": {f"iteration-0/generations/{name}": [size, "0"]}} for size in (1, 2))
    lost_step = {"phase": "lost", "stage": "iteration-0", "lost": "generate"}
    for place, lines in (("one", [before]), ("other", [before, lost_step, after])):
        (tmp_path / place).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert says_the_same(tmp_path / "other", tmp_path / "one") is is_same


def test_the_order_of_an_adapters_sets_is_no_difference(tmp_path: Path) -> None:
    """The order differs between processes, and so does the checksum in the journal. Other weights are a difference."""
    found = []
    for number, (modules, digest) in enumerate([(["q", "v"], "0"), (["v", "q"], "0"), (["q", "v"], "1")]):
        run = tmp_path / str(number) / "run"
        (run / "iteration-0" / "model").mkdir(parents=True)
        config = json.dumps({"target_modules": modules})
        (run / "iteration-0" / "model" / "adapter_config.json").write_text(config, encoding="utf-8")
        files = {"model/adapter_config.json": [1, config], "model/adapter_model.safetensors": [1, digest]}
        entry = {"phase": "train", "stage": "iteration-0", "files": files}
        (run / "journal.jsonl").write_text(json.dumps(entry), encoding="utf-8")
        found.append(results_of(run.parent))
    assert found[0] == found[1] != found[2]


def test_the_table_counts_verdicts_and_faults() -> None:
    table = Table()
    for verdict in (Verdict.SAME, Verdict.ERROR, Verdict.SILENT):
        table.add("damage", Outcome(verdict))
    assert table.faults == 1
    assert [line.split() for line in str(table).splitlines()[1:]] == [
        ["damage", "3", "1", "1", "0", "1", "0"],
        ["in", "all", "3", "1", "1", "0", "1", "0"],
    ]
