"""The presentation of a comparison: means over seeds, and why an arm ended early."""

from pathlib import Path

import pytest

from messages import names
from spin_trl.report.comparison import (
    ArmFigures,
    EarlyEnd,
    _points,
    comparison_table,
    plot_comparison,
    summarise_cells,
)
from spin_trl.report.drawing import Point


def test_one_seed_of_several_has_no_standard_error() -> None:
    """The standard error over the held-out prompts would be a different quantity."""
    cells = [ArmFigures("space", 0, seed, {"nll": 1.0, "nll_se": 0.1}) for seed in (1, 2)]
    summary = summarise_cells([*cells, ArmFigures("iris", 0, 1, {"nll": 2.0, "nll_se": 0.1})], 2)
    assert summary["space"][0] == {"seeds": 2.0, "nll": 1.0, "nll_se": 0.0}
    assert summary["iris"][0] == {"seeds": 1.0, "nll": 2.0}
    assert summarise_cells(cells[:1], 1)["space"][0] == {"seeds": 1.0, "nll": 1.0, "nll_se": 0.1}


def test_two_seeds_have_a_mean_and_students_interval_of_their_differences() -> None:
    """1 and 3: the mean 2, its standard error 1; with one degree of freedom t is 12.7062."""
    cells = [
        ArmFigures(
            "space",
            0,
            seed,
            {"nll": nll, "nll_vs_baseline": nll, "nll_vs_baseline_low": 0.0, "nll_vs_baseline_high": 9.0},
        )
        for seed, nll in ((1, 1.0), (2, 3.0))
    ]
    (found,) = summarise_cells(cells, 2)["space"].values()
    assert (found["nll"], found["nll_se"], found["seeds"]) == (2.0, 1.0, 2.0)
    assert found["nll_vs_baseline_low"] == pytest.approx(2 - 12.7062, abs=1e-3)
    assert found["nll_vs_baseline_high"] == pytest.approx(2 + 12.7062, abs=1e-3)


def test_a_figure_that_a_seed_has_not_measured_has_no_mean() -> None:
    cells = [ArmFigures("space", 0, 1, {"nll": 1.0, "score": 0.5}), ArmFigures("space", 0, 2, {"nll": 2.0})]
    (found,) = summarise_cells(cells, 2)["space"].values()
    assert found["nll"] == 1.5
    assert "score" not in found


SUMMARY = {
    "start": {-1: {"nll": 3.0, "seeds": 2.0}},
    "space": {
        0: {"nll": 2.0, "nll_se": 0.5, "seconds": 60.0, "seconds_se": 9.0, "seeds": 2.0, "nll_vs_baseline": -0.5,
            "nll_vs_baseline_low": -0.75, "nll_vs_baseline_high": -0.25},
        1: {"nll": 1.0, "seeds": 1.0},
    },
}  # fmt: skip


def test_the_table_has_a_row_for_every_arm_and_iteration() -> None:
    """Costs vary with the machine, so they have no standard error."""
    table = comparison_table(SUMMARY, "nll", 2, None, "sft")
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert next(iter(columns.values())) == ["start", "space 0", "space 1"]
    assert columns["minus sft [95 %]"] == ["–", "-0.500 [-0.750, -0.250]", "–"]
    assert columns["seconds"] == ["–", "60", "–"]
    assert "2.000 ±0.500" in {cell for cells in columns.values() for cell in cells}


def test_points_begin_at_the_start_and_have_the_interval_that_is_known() -> None:
    assert _points(SUMMARY, "nll")["space"] == [
        Point(-1, 3.0, None, None, -2), Point(0, 2.0, 1.5, 2.5, -1), Point(1, 1.0, None, None, 0)
    ]  # fmt: skip
    assert _points(SUMMARY, "nll_vs_baseline") == {"space": [Point(0, -0.5, -0.75, -0.25, -1)]}


def test_the_end_of_an_arm_names_arm_seed_and_iteration() -> None:
    """The iteration is not named twice."""
    assert str(EarlyEnd("space", 42, "iteration-0", "NaN.")) == "space, seed 42: iteration 0: NaN."
    reason = "Stopped after iteration 0: NaN."
    assert str(EarlyEnd("space", 42, "iteration-0", reason)) == f"space, seed 42: {reason}"
    assert names(str(EarlyEnd("space", 42, "baseline/sft/iteration-1", "NaN.")), "plain SFT, iteration 1")


def test_a_plot_is_written_also_where_nothing_was_measured(tmp_path: Path) -> None:
    for name, summary in (("full.png", SUMMARY), ("empty.png", {})):
        plot_comparison(tmp_path / name, summary, "nll", "sft")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
