"""Tables of benchmarks show a paper's suite in percent with its mean, and other tasks in the harness's own units."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from spin_trl.evaluation.benchmarks import Benchmark
from spin_trl.report.benchmarks import benchmark_table

GSM8K = Benchmark("GSM8K", "gsm8k", 5, ("exact_match,strict-match",))
BOTH = Benchmark("IFEval", "ifeval", 0, ("prompt,none", "inst,none"))


def results(task: str, shots: int, **values: Any) -> dict[str, Any]:
    """Return the harness's results for a task."""
    named = {name.replace("__", ","): value for name, value in values.items()}
    return {"results": {task: named}, "configs": {task: {}}, "n-shot": {task: shots}}


FOUND = {
    GSM8K: results("gsm8k", 5, **{"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.01234}),
    BOTH: results("ifeval", 0, prompt__none=0.4, inst__none=0.5, prompt_stderr__none=0.1),
}


def cells(table: Table) -> list[list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_a_suite_is_in_percent_with_its_plain_mean() -> None:
    """25 % and the mean of 40 and 50 % average to 35 %. A mean of two metrics has no standard error."""
    table = benchmark_table("suite", [GSM8K, BOTH], FOUND, is_suite=True)
    assert table.columns[3].header == "value, %"
    assert cells(table) == [
        ["GSM8K", "5", "exact_match,strict-match", "25.00 ± 1.23"],
        ["IFEval", "0", "prompt + inst", "45.00"],
        ["average", "", "", "35.00"],
    ]


def test_while_one_is_missing_there_is_no_mean() -> None:
    table = benchmark_table("suite", [GSM8K, BOTH], {GSM8K: FOUND[GSM8K]}, is_suite=True)
    assert cells(table)[1:] == [["IFEval", "–", "–", "–"], ["average", "", "", "–"]]


def test_other_tasks_are_shown_as_the_harness_has_them() -> None:
    """All metrics are shown under the harness's names, including those of the parts of a group."""
    task = Benchmark("mine", "mine")
    found = results("mine", 0, acc__none=0.5, acc_stderr__none="N/A", ppl__none=12.5, alias="mine", samples=3)
    table = benchmark_table("", [task], {task: found}, is_suite=False)
    assert table.columns[3].header == "value"
    assert cells(table) == [["mine", "0", "acc", "0.5000"], ["mine", "0", "ppl", "12.5000"]]
    group = {**results("part", 2, acc__none=0.75), "groups": {}}
    assert cells(benchmark_table("", [task], {task: group}, is_suite=False)) == [["part", "2", "acc", "0.7500"]]
