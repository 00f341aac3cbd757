"""A run is read back from its directory as it was played: stages, decisions, opponents and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import made_up
from messages import refused
from spin_trl.errors import RunDirectoryError
from spin_trl.evaluation.intervals import Difference
from spin_trl.report.record import RunRecord, read_figures, read_object, read_record, read_stage
from spin_trl.run.directory import RunDirectory
from spin_trl.run.stage import Stage

STAGES = (
    made_up.stage("start", range(20)),
    made_up.stage("iteration-0", range(60)),
    made_up.stage("iteration-1", range(40)),
    made_up.stage("baseline/sft/iteration-0", range(50)),
)


def gate(iteration: int, decision: str = "improved", opponent: str | None = None) -> dict[str, Any]:
    stage = f"iteration-{iteration}"
    return {"phase": "gate", "stage": stage, "decision": decision, "opponent": opponent or stage, "reason": "so"}


def written(path: Path, **changes: Any) -> RunDirectory:
    made_up.write_run(path, made_up.record(*STAGES, best="iteration-0", **changes))
    return RunDirectory(path)


def test_a_run_reads_as_it_was_written(tmp_path: Path) -> None:
    found = read_record(written(tmp_path / "mine"))
    assert (found.name, found.metric, found.greater_is_better, found.planned, found.best) == (
        "mine",
        "score",
        True,
        2,
        "iteration-0",
    )
    assert [stage.name for stage in found.stages] == [stage.name for stage in STAGES]
    for read, made in zip(found.stages, STAGES, strict=True):
        assert (read.figures, read.values, read.histogram) == (made.figures, made.values, made.histogram)
    assert [stage.name for stage in found.iterations] == ["iteration-0", "iteration-1"]
    assert found.start is not None
    assert found.start.name == "start"
    assert list(found.arms) == ["sft"]
    assert found.best_stage is found.stage("iteration-0") is found.at(0)
    assert list(found.candidates(0)) == ["start", "iteration-0"]


def test_what_a_recipe_leaves_out_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("beta: 0.1", encoding="utf-8")
    found = read_record(RunDirectory(tmp_path))
    assert (found.planned, found.metric, found.greater_is_better) == (3, "nll", False)
    assert (found.stages, found.best, found.held_out) == ([], None, None)


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "settings"), ("[1]", "settings"), ("a: [", "recipe.yaml"), ("a: !!python/object:os.x", "recipe.yaml")],
)
def test_settings_that_are_none_are_refused(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with refused(RunDirectoryError, part):
        read_record(RunDirectory(tmp_path))
    with refused(RunDirectoryError, "recipe.yaml"):
        read_record(RunDirectory(tmp_path / "nowhere"))


def test_a_null_is_no_number(tmp_path: Path) -> None:
    directory = written(tmp_path)
    (tmp_path / "iteration-0/metrics.json").write_text('{"nll": null, "score": 1}', encoding="utf-8")
    assert read_figures(directory, Stage.of(0)) == {"score": 1}
    assert read_figures(directory, Stage.of(7)) == {}
    assert read_stage(directory, Stage.of(7)).values == {}


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("metrics.json", {"nll": "low"}, "`nll`"),
        ("metrics.json", {"nll": True}, "`nll`"),
        ("metrics.json", [1], "[1]"),
        ("held-out/values.json", {"nll": 3}, "`nll`"),
        ("held-out/values.json", {"nll": {"k": "x"}}, "`k`"),
        ("histograms.json", {"edges": [0, 1], "real": [1, 2]}, "`real`"),
        ("histograms.json", {"real": [1]}, "`real`"),
        ("histograms.json", {"edges": [0, "x"]}, "`edges`"),
    ],
)
def test_figures_of_another_shape_are_named(file: str, content: Any, part: str, tmp_path: Path) -> None:
    directory = written(tmp_path)
    path = tmp_path / "iteration-0" / file
    path.write_text(json.dumps(content), encoding="utf-8")
    with refused(RunDirectoryError, path, part, "`spin-trl run`"):
        read_stage(directory, Stage.of(0))


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 9_999, b"3", b""])
def test_a_file_that_holds_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with refused(RunDirectoryError, tmp_path / "a.json"):
        read_object(tmp_path / "a.json")
    assert read_object(tmp_path / "nowhere.json") == {}


def ended(arm: str) -> dict[str, Any]:
    """The journal's entry on an arm whose second training has diverged."""
    return {"phase": "diverged", "stage": f"baseline/{arm}/iteration-1"}


def test_the_opponent_is_the_iteration_before_unless_the_gate_has_fallen_back() -> None:
    def opponents(*journal: dict[str, Any]) -> list[str | None]:
        run = made_up.record(*STAGES, journal=journal)
        found = [run.opponent(stage) for stage in run.stages]
        return [None if one is None else one.name for one in found]

    assert opponents() == [None, "start", "iteration-0", None]
    assert opponents(gate(0, "fell back", "start")) == [None, "start", "start", None]


def test_a_run_has_stopped_if_its_newest_iteration_says_so() -> None:
    assert made_up.record(*STAGES, journal=[gate(0, "stopped"), gate(1)]).stopped == {}
    assert made_up.record(*STAGES, journal=[gate(0), gate(1, "stopped")]).stopped["stage"] == "iteration-1"
    assert made_up.record(journal=[gate(0, "stopped")]).stopped == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"planned": 3}, False),
        ({"planned": 3, "journal": [gate(1, "stopped")]}, True),
        ({"settings": {"baseline": "sft"}}, False),  # whose second iteration is missing
        ({"planned": 1, "settings": {"baseline": "sft"}}, True),
        ({"settings": {"baseline": "sft"}, "journal": [ended("sft")]}, True),  # nothing waits for it
        ({"settings": {"baseline": ["sft", "sft-dft"]}, "journal": [ended("sft-dft")]}, False),
        ({"stages": STAGES[:2]}, False),
        ({"stages": (*STAGES[:2], made_up.stage("iteration-1"))}, False),  # trained but not measured
        ({"stages": ()}, False),
    ],
)
def test_a_run_is_finished_when_nothing_is_left_to_play(changes: dict[str, Any], expected: bool) -> None:
    assert (
        RunRecord(
            **{"name": "a", "metric": "score", "greater_is_better": True, "planned": 2, "stages": STAGES, **changes}
        ).is_finished
        is expected
    )


def test_scores_are_shares_where_all_of_them_are() -> None:
    """This is checked prompt by prompt, since a mean of 0.5 may come from scores between 0 and 10."""
    shares = made_up.record(*STAGES).form("score")
    assert (shares.percent, shares.value(0.6)) == (True, "60.0\u00a0%")
    wide = made_up.stage("start", range(20), values={"score": {"a": 0.0, "b": 10.0}})
    assert not made_up.record(wide).form("score").percent
    large = made_up.stage("start", range(20), figures={"score": 123.0})
    assert made_up.record(large).form("score").digits == 1


def test_a_difference_is_of_the_same_prompts_and_needs_more_than_one() -> None:
    """60 of 100 are right against 20, all of them also among the 60, so the difference is 0.4."""
    run = made_up.record(*STAGES)
    found = run.difference(STAGES[1], STAGES[0], "score")
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert run.is_better(found) is True
    assert run.difference(STAGES[1], STAGES[0], "no such figure") is None
    one = made_up.stage("iteration-0", range(1), values={"score": {"key-000": 0.5}})
    assert run.difference(one, STAGES[0], "score") is None


@pytest.mark.parametrize(
    ("low", "value", "high", "greater", "expected"),
    [
        (0.1, 0.2, 0.3, True, True),
        (0.1, 0.2, 0.3, False, False),
        (-0.3, -0.2, -0.1, False, True),
        (0.0, 0.2, 0.4, True, None),
    ],
)
def test_better_is_what_the_whole_interval_says(
    low: float, value: float, high: float, greater: bool, expected: bool | None
) -> None:
    run = made_up.record(*STAGES, greater_is_better=greater)
    assert run.is_better(Difference(value, low, high, 0.01, 100)) is expected


def test_held_out_prompts_are_counted_where_they_were_measured_or_prepared() -> None:
    assert made_up.record(*STAGES).held_out == 100
    prepared = {"phase": "prepare", "stage": "data", "held_out_rows": 7}
    assert made_up.record(made_up.stage("start"), journal=[prepared]).held_out == 7
    assert made_up.record(made_up.stage("start")).held_out is None
