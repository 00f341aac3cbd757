"""Tables of benchmarks: as the papers have them, one number a benchmark and the average, or all that the harness found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..evaluation.benchmarks import Benchmark, average, scores


def suite_table(title: str, benchmarks: Sequence[Benchmark], results: Mapping[Benchmark, Mapping[str, Any]]) -> Table:
    """The benchmarks of a paper, in percent; `–` where one is missing.

    Args:
        title: above the table.
        benchmarks: of the suite.
        results: of the harness, by benchmark.
    """
    table = _empty_table(title, "value, %")
    values: list[float | None] = []
    for benchmark in benchmarks:
        (score,) = scores(benchmark, results[benchmark]) if benchmark in results else (None,)
        values.append(None if score is None else 100 * score.value)
        if score is None:
            table.add_row(benchmark.name, "–", "–", "–")
        else:
            error = "" if score.stderr is None else f" ± {100 * score.stderr:.2f}"
            table.add_row(benchmark.name, score.shots, score.metric, f"{100 * score.value:.2f}{error}")
    mean = average(values)
    table.add_section()
    table.add_row("average", "", "", "–" if mean is None else f"{mean:.2f}", style="bold")
    return table


def task_table(title: str, benchmarks: Sequence[Benchmark], results: Mapping[Benchmark, Mapping[str, Any]]) -> Table:
    """Tasks by the harness's names, with all that it found, in its own units."""
    table = _empty_table(title, "value")
    for benchmark in benchmarks:
        if benchmark not in results:
            table.add_row(benchmark.name, "–", "–", "–")
            continue
        for score in scores(benchmark, results[benchmark]):
            error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
            table.add_row(score.task, score.shots, score.metric, f"{score.value:.4f}{error}")
    return table


def _empty_table(title: str, value: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("benchmark")
    table.add_column("shots", justify="right")
    table.add_column("metric")
    table.add_column(value, justify="right")
    return table
