"""A comparison is presented with means over seeds, and with the reason if an arm ended early."""

from pathlib import Path

import pytest

from messages import names
from spin_trl.report.comparison import (
    ArmFigures,
    ComparedWith,
    EarlyEnd,
    _points,
    add_sums,
    comparison_table,
    cost_table,
    costs_of_stage,
    plot_comparison,
    summarise_cells,
    table_of_test_set,
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
    """The differences 1 and 3 have mean 2 and standard error 1; with one degree of freedom, t is 12.7062."""
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
    table = comparison_table(SUMMARY, "nll", 2, None, ComparedWith("sft"))
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert next(iter(columns.values())) == ["start", "space 0", "space 1"]
    assert columns["minus sft [95 %]"] == ["–", "-0.500 [-0.750, -0.250]", "–"]
    assert columns["seconds"] == ["–", "60", "–"]
    assert "2.000 ±0.500" in {cell for cells in columns.values() for cell in cells}


AFTER_DPO = {
    **SUMMARY,
    "start > dpo": {2: {"nll": 0.9, "compute": 7.0, "compute_so_far": 8.0}},
    "space > dpo": {2: {"nll": 0.8, "compute": 7.0, "compute_so_far": 9.0, "nll_vs_dpo": -0.1, "nll_vs_dpo_low": -0.2,
                        "nll_vs_dpo_high": 0.0}},
}  # fmt: skip


def test_an_arm_that_ends_with_dpo_has_one_row() -> None:
    """Its iteration is no part of its name, it has its own compute so far, and it does not continue the start in a plot."""
    table = comparison_table(AFTER_DPO, "nll", 1, None, ComparedWith("sft", "start > dpo"))
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert next(iter(columns.values())) == ["start", "space 0", "space 1", "start > dpo", "space > dpo"]
    assert columns["minus start > dpo [95 %]"][3:] == ["–", "-0.100 [-0.200, +0.000]"]
    add_sums(AFTER_DPO)
    assert [AFTER_DPO[arm][2]["compute_so_far"] for arm in ("start > dpo", "space > dpo")] == [8.0, 9.0]
    assert _points(AFTER_DPO, "nll")["space > dpo"] == [Point(2, 0.8, None, None, 1)]


def test_figures_on_the_test_set_have_a_row_for_every_arm() -> None:
    """Without the metric, which may need an opponent, the differences are those of the NLL."""
    summary = {"start": {0: {"nll": 2.0}}, "space": {0: {"nll": 1.0, "nll_vs_baseline": -0.5, "nll_vs_baseline_low": -0.7,
                                                         "nll_vs_baseline_high": -0.3}}}  # fmt: skip
    table = table_of_test_set(summary, "win_rate", 1, None, ComparedWith("sft"))
    assert table is not None
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert next(iter(columns.values())) == ["start", "space"]
    assert columns["minus sft [95 %]"] == ["–", "-0.500 [-0.700, -0.300]"]
    assert table_of_test_set({}, "nll", 1, None) is None


def test_the_costs_of_a_stage_are_those_of_its_steps() -> None:
    """Compute is 3 x 100 + 50 + 20 + 30 = 400. If it was not counted, it is unknown."""
    entries = [
        {"phase": "generate", "seconds": 2.0, "tokens": 30, "compute": {"prefilled": 20, "sampled": 30}},
        {"phase": "train", "seconds": 3.5, "steps": 7, "compute": {"trained": 100, "scored": 50}},
    ]
    assert costs_of_stage(entries) == {
        "seconds": 5.5, "generated_tokens": 30.0, "steps": 7.0, "compute": 400.0, "tokens_trained": 100.0,
        "tokens_scored": 50.0, "tokens_prefilled": 20.0, "tokens_sampled": 30.0,
    }  # fmt: skip
    assert costs_of_stage([{"phase": "train", "seconds": 1.0, "steps": 2}]) == {
        "seconds": 1.0, "generated_tokens": 0.0, "steps": 2.0
    }  # fmt: skip


def test_what_a_model_has_cost_so_far_begins_at_the_given_model() -> None:
    """The arm from the base does not go through the start."""
    summary = {
        "start": {-1: {"compute": 1000.0}},
        "space": {0: {"compute": 200.0}, 1: {"compute": 300.0}},
        "old": {0: {"nll": 1.0}, 1: {"compute": 5.0}},
        "sft-best": {1: {"compute": 1500.0}},
    }
    add_sums(summary)
    found = {arm: [one.get("compute_so_far") for one in by.values()] for arm, by in summary.items()}
    assert found == {"start": [1000.0], "space": [1200.0, 1500.0], "old": [None, None], "sft-best": [1500.0]}
    table = cost_table(summary, None)
    assert table is not None
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["compute"] == ["1000", "200", "300", "–", "5", "1500"]
    assert columns["so far"] == ["1000", "1200", "1500", "–", "–", "1500"]
    assert cost_table(SUMMARY, None) is None


def test_points_begin_at_the_start_and_have_the_interval_that_is_known() -> None:
    assert _points(SUMMARY, "nll")["space"] == [
        Point(-1, 3.0, None, None, -2), Point(0, 2.0, 1.5, 2.5, -1), Point(1, 1.0, None, None, 0)
    ]  # fmt: skip
    from_base = {**SUMMARY, "sft-best": {1: {"nll": 1.5}}}
    assert _points(from_base, "nll")["sft-best"] == [Point(1, 1.5, None, None, 0)]
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
