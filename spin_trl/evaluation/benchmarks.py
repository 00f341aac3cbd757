"""The papers' benchmarks as tasks of lm-evaluation-harness, and how to read their numbers from its results.

SPIN (arXiv 2401.01335) reports the six benchmarks of the first Open LLM Leaderboard and states the shots. T-SPIN
(2601.08198) and IRIS report ten; T-SPIN states the shots and which metrics are normalised. Everything else about the ten is
an assumption; see README.md.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ..errors import RecipeError, nearest


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: a task, or a group of tasks, of the harness.

    Attributes:
        name: heading of its column in the papers' tables.
        task: name of the task in the harness.
        shots: few-shot examples before every question; None: the task's default.
        metrics: names in the harness, `METRIC,FILTER`. Their mean is the number in the table. Empty: show all metrics.
    """

    name: str
    task: str
    shots: int | None = None
    metrics: tuple[str, ...] = ()


GSM8K = Benchmark("GSM8K", "gsm8k", 5, ("exact_match,strict-match",))
HELLASWAG = Benchmark("HellaSwag", "hellaswag", 10, ("acc_norm,none",))
MMLU = Benchmark("MMLU", "mmlu", 5, ("acc,none",))
WINOGRANDE = Benchmark("WinoGrande", "winogrande", 5, ("acc,none",))

SUITES: Mapping[str, tuple[Benchmark, ...]] = MappingProxyType(
    {
        "open_llm_leaderboard_v1": (
            Benchmark("ARC", "arc_challenge", 25, ("acc_norm,none",)),
            Benchmark("TruthfulQA", "truthfulqa_mc2", 0, ("acc,none",)),
            WINOGRANDE,
            GSM8K,
            HELLASWAG,
            MMLU,
        ),
        "iris_ten": (
            GSM8K,
            Benchmark("MATH", "leaderboard_math_hard", 4, ("exact_match,none",)),
            Benchmark("MuSR", "leaderboard_musr", 0, ("acc_norm,none",)),
            MMLU,
            Benchmark("MMLU-Pro", "leaderboard_mmlu_pro", 5, ("acc,none",)),
            Benchmark("GPQA", "leaderboard_gpqa", 0, ("acc_norm,none",)),
            HELLASWAG,
            WINOGRANDE,
            Benchmark("BBH", "leaderboard_bbh", 3, ("acc_norm,none",)),
            # The second Open LLM Leaderboard's number is the mean of the two.
            Benchmark(
                "IFEval", "leaderboard_ifeval", 0, ("prompt_level_strict_acc,none", "inst_level_strict_acc,none")
            ),
        ),
    }
)
"""Benchmarks by suite, in the order of the papers' tables."""


@dataclass(frozen=True)
class BenchmarkScore:
    """One number from a benchmark.

    Attributes:
        task: task that it belongs to: the benchmark itself, or one of its parts.
        metric: name in the harness; several are joined by ` + `, and `value` is their mean.
        value: value as the harness reports it, usually a share.
        stderr: standard error; None if the harness reports none, and for means of several metrics.
        shots: few-shot examples before every question, as counted by the harness.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: str


def harness_version() -> str:
    """Return the version of lm-evaluation-harness.

    Raises:
        RecipeError: if it is not installed.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(
            "lm-evaluation-harness is not installed. It is an optional extra: pip install 'spin_trl[lm-eval]'"
        ) from None


def chosen(names: Sequence[str], shots: int | None = None) -> dict[str, tuple[Benchmark, ...]]:
    """Return the benchmarks for names of suites and of the harness's tasks.

    Args:
        names: names of suites and tasks.
        shots: number of shots that replaces those of the suites and tasks.

    Returns:
        Benchmarks by suite; single tasks are under the empty name.
    """
    suites = {name: SUITES[name] for name in dict.fromkeys(names) if name in SUITES}
    tasks = tuple(Benchmark(name, name) for name in dict.fromkeys(names) if name not in SUITES)
    found = {**suites, **({"": tasks} if tasks else {})}
    if shots is None:
        return found
    return {name: tuple(replace(one, shots=shots) for one in benchmarks) for name, benchmarks in found.items()}


def check_tasks(names: Iterable[str], known: Iterable[str], option: str = "--tasks") -> None:
    """Check that tasks exist.

    Args:
        names: names of tasks.
        known: names that the harness knows.
        option: option or setting that names the tasks, for the message.

    Raises:
        RecipeError: if a task does not exist; the message names the nearest one.
    """
    known = set(known)
    for name in names:
        if name not in known:
            # Among some ten thousand names there is always one that is half similar.
            near = nearest(name, [*SUITES, *known], cutoff=0.6)
            more = f" Suites are {', '.join(SUITES)}. To use your own tasks, pass their folder as `--include_path`."
            raise RecipeError(
                f"`{option}`: lm-evaluation-harness has no task {name!r}{near}{more if option == '--tasks' else ''}"
            )


def scores(benchmark: Benchmark, results: Mapping[str, Any]) -> list[BenchmarkScore]:
    """Return the numbers of a benchmark.

    Args:
        benchmark: benchmark to read.
        results: results of the harness for this benchmark alone.

    Returns:
        The one number of a paper's benchmark. For others, all numbers of the harness: the group's, or its parts' if the
        group has none itself.

    Raises:
        KeyError: if the harness has not measured the metrics of the paper's table.
    """
    found = {**results["results"], **results.get("groups", {})}
    counts = sorted({int(results["n-shot"][task]) for task in results["configs"] if task in results["n-shot"]})
    shots = "–".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
    if benchmark.metrics:
        of_task = found[benchmark.task]
        values = [float(of_task[metric]) for metric in benchmark.metrics]
        stderr = _stderr(of_task, benchmark.metrics[0]) if len(values) == 1 else None
        names = " + ".join(metric.removesuffix(",none") for metric in benchmark.metrics)
        return [BenchmarkScore(benchmark.task, names, sum(values) / len(values), stderr, shots)]
    if _metrics_of_task(found.get(benchmark.task, {})):
        found = {benchmark.task: found[benchmark.task]}
    return [
        BenchmarkScore(task, metric.removesuffix(",none"), float(of_task[metric]), _stderr(of_task, metric), shots)
        for task, of_task in found.items()
        for metric in _metrics_of_task(of_task)
    ]


def average(values: Sequence[float | None]) -> float | None:
    """Return the plain mean over benchmarks, as in the papers; None if one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _metrics_of_task(of_task: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a task, as `METRIC,FILTER`."""
    return [
        name
        for name, value in of_task.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    ]


def _stderr(of_task: Mapping[str, Any], metric: str) -> float | None:
    name, _, filter_name = metric.partition(",")
    value = of_task.get(f"{name}_stderr,{filter_name}")
    return float(value) if isinstance(value, int | float) else None  # "N/A" otherwise
