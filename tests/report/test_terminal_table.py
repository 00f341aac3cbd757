"""The table of a run has the expected contents, and drops columns on a narrow terminal."""

import io

import pytest
from rich.console import Console

from spin_trl.evaluation.figures import FIGURES
from spin_trl.report.terminal_table import run_table, written_figure

RUN = {
    "start": {
        "nll": 0.5,
        "nll_se": 0.01,
        "score": 0.02,
        "score_se": 0.004,
        "truncated": 0.25,
        "length_generated": 12.34,
    },
    "iteration-0": {
        "nll": 0.4,
        "nll_se": 0.01,
        "score": 0.336,
        "score_se": 0.015,
        "win_rate": 0.985,
        "win_rate_se": 0.004,
    },
    "baseline/sft/iteration-0": {"nll": 0.3, "nll_se": 0.01, "score": 0.68, "score_se": 0.015},
}


def rendered(width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(run_table(RUN, "iteration-0", title="a run", width=width))
    return file.getvalue()


@pytest.mark.parametrize(
    ("figures", "column", "text"),
    [
        ({"score": 0.336, "score_se": 0.0149}, FIGURES["score"], "33.6 ±1.5"),
        ({"nll": 0.07961, "nll_se": 0.00112}, FIGURES["nll"], "0.080 ±0.001"),
        ({"truncated": 0.031}, FIGURES["truncated"], "3.1"),
        ({}, FIGURES["win_rate"], "–"),
        ({"score": float("nan")}, FIGURES["score"], "–"),
        ({"score": 0.5, "score_se": float("nan")}, FIGURES["score"], "50.0"),
    ],
)
def test_a_figure_is_written_with_its_standard_error(figures, column, text):
    assert written_figure(figures, column) == text


def test_the_table_names_every_stage_and_marks_the_best():
    lines = rendered(200).splitlines()
    assert any("iteration 0 *" in line and "33.6 ±1.5" in line and "98.5 ±0.4" in line for line in lines)
    assert any("start" in line and "2.0 ±0.4" in line and "25.0" in line for line in lines)
    assert any("sft 0" in line and "68.0 ±1.5" in line and "*" not in line for line in lines)


def test_figures_that_no_stage_has_make_no_column():
    assert "greedy" not in rendered(200)
    assert "empty" not in rendered(200)


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_loses_the_less_important_figures_and_no_line_is_broken(width):
    text = rendered(width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "score %" in text
    assert "tokens" not in text if width == 60 else True
    assert "…" not in text


def test_the_metric_stays_on_a_narrow_terminal_whatever_else_is_dropped() -> None:
    """Otherwise the mark on the best stage could not be understood."""
    figures = {f"score/judge.criterion_{number}": 0.5 for number in range(9)} | {"score/rubric.mean": 0.7}
    for width in (80, 30):
        file = io.StringIO()
        Console(file=file, width=width).print(
            run_table({"start": figures}, "start", width=width, metric="score/rubric.mean")
        )
        assert "rubric.mean %" in file.getvalue()


def test_a_scorers_named_scores_are_columns():
    figures = {"score/exact_match": 0.02, "score/exact_match_se": 0.007, "score_greedy/exact_match": 0.03, "nll": 2.1}
    file = io.StringIO()
    Console(file=file, width=120).print(run_table({"start": figures}, None))
    text = file.getvalue()
    assert all(part in text for part in ("exact match %", "2.0 ±0.7", "greedy exact match %", "3.0", "NLL/token"))


def test_the_change_of_the_runs_metric_stands_beside_it():
    """The change is shown with its interval; the start has none."""
    change = {"score_change": 0.031, "score_change_low": -0.012, "score_change_high": 0.05, "score_change_p": 0.2}
    figures = {"start": {"score": 0.5, "nll": 2.0}, "iteration-0": {"score": 0.531, "nll": 1.9, **change}}
    file = io.StringIO()
    Console(file=file, width=120).print(run_table(figures, None, metric="score"))
    lines = file.getvalue().splitlines()
    assert any("score %" in line and "change [95 %]" in line and "NLL/token" in line for line in lines)
    assert any("53.1" in line and "+3.1 [-1.2, +5.0]" in line for line in lines)
    assert any("start" in line and "–" in line for line in lines)
    file = io.StringIO()
    Console(file=file, width=120).print(run_table(figures, None, metric="nll"))
    assert "change" not in file.getvalue()


def test_a_score_may_be_called_as_it_likes():
    """`is_low` is a separate score; `right_low` is the lower end of the interval of `right`."""
    figures = {"score/is_low": 0.25, "score/right": 0.5, "score/right_low": 0.4}
    file = io.StringIO()
    Console(file=file, width=120).print(run_table({"start": figures}, None))
    assert "is low %" in file.getvalue()
    assert "right low" not in file.getvalue()


def test_a_run_without_figures_has_a_table_on_the_narrowest_terminal() -> None:
    """Nothing was held out, so there is no column to drop."""
    file = io.StringIO()
    Console(file=file, width=10).print(run_table({"start": {}, "iteration-0": {}}, None, width=10))
    assert "start" in file.getvalue()
