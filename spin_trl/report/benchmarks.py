"""Tables of benchmarks: one number per benchmark and the average, as in the papers, or all results of the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..evaluation.benchmarks import Benchmark, average, scores


def benchmark_table(
    title: str, benchmarks: Sequence[Benchmark], results: Mapping[Benchmark, Mapping[str, Any]], *, is_suite: bool
) -> Table:
    """Return a table of benchmark results, with `–` for missing ones.

    Args:
        title: title above the table.
        benchmarks: benchmarks to show.
        results: results of the harness, by benchmark.
        is_suite: whether the benchmarks are those of a paper: one number each, in percent, and their average. For other
            tasks, all results of the harness are shown, with the harness's names and units.
    """
    scale, digits = (100, 2) if is_suite else (1, 4)
    table = Table(title=title, title_justify="left")
    table.add_column("benchmark")
    table.add_column("shots", justify="right")
    table.add_column("metric")
    table.add_column("value, %" if is_suite else "value", justify="right")
    values: list[float | None] = []
    for benchmark in benchmarks:
        if benchmark not in results:
            values.append(None)
            table.add_row(benchmark.name, "–", "–", "–")
            continue
        for score in scores(benchmark, results[benchmark]):
            values.append(scale * score.value)
            error = "" if score.stderr is None else f" ± {scale * score.stderr:.{digits}f}"
            name = benchmark.name if is_suite else score.task
            table.add_row(name, score.shots, score.metric, f"{scale * score.value:.{digits}f}{error}")
    if is_suite:
        mean = average(values)
        table.add_section()
        table.add_row("average", "", "", "–" if mean is None else f"{mean:.2f}", style="bold")
    return table
