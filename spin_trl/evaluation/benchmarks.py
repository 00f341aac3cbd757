"""The papers' benchmarks, as tasks of lm-evaluation-harness, and how their numbers are read from its results.

SPIN (arXiv 2401.01335) reports the six of the first Open LLM Leaderboard and states the shots. T-SPIN (2601.08198) and IRIS
report ten; T-SPIN states the shots and which metrics are normalised. All else about the ten is an assumption: README.md.
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
        task: its name in the harness.
        shots: examples before every question; None: as many as the task says.
        metrics: in the harness's words, `METRIC,FILTER`. Their mean is the number in the table. Empty: all are shown.
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
"""By name, in the order of the papers' tables."""


@dataclass(frozen=True)
class BenchmarkScore:
    """A number that a benchmark gave.

    Attributes:
        task: whose it is: the benchmark's own, or one of its parts.
        metric: in the harness's words; several are joined by ` + `, and `value` is their mean.
        value: as the harness has it, mostly a share.
        stderr: its standard error; None where the harness gives none, and for means of several metrics.
        shots: examples that stood before every question, as the harness counted them.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: str


def harness_version() -> str:
    """Version of lm-evaluation-harness.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(
            "lm-evaluation-harness is not installed. It is an optional extra: pip install 'spin_trl[lm-eval]'"
        ) from None


def chosen(names: Sequence[str], shots: int | None = None) -> dict[str, tuple[Benchmark, ...]]:
    """The benchmarks that are meant by names of suites and of the harness's tasks.

    Args:
        names: of suites and tasks.
        shots: instead of those of the suites and tasks.

    Returns:
        Benchmarks by suite; single tasks stand under the empty name.
    """
    suites = {name: SUITES[name] for name in dict.fromkeys(names) if name in SUITES}
    tasks = tuple(Benchmark(name, name) for name in dict.fromkeys(names) if name not in SUITES)
    found = {**suites, **({"": tasks} if tasks else {})}
    if shots is None:
        return found
    return {name: tuple(replace(one, shots=shots) for one in benchmarks) for name, benchmarks in found.items()}


def check_tasks(names: Iterable[str], known: Iterable[str]) -> None:
    """See to it that tasks exist.

    Args:
        names: of tasks.
        known: names that the harness knows.

    Raises:
        RecipeError: there is no such task. The message names the nearest.
    """
    known = set(known)
    for name in names:
        if name not in known:
            # Among some ten thousand names one that is half alike is always found.
            near = nearest(name, [*SUITES, *known], cutoff=0.6)
            raise RecipeError(
                f"`--tasks`: lm-evaluation-harness has no task {name!r}{near} Suites are {', '.join(SUITES)}. Tasks of "
                "your own lie in a folder that `--include_path` names."
            )


def scores(benchmark: Benchmark, results: Mapping[str, Any]) -> list[BenchmarkScore]:
    """The numbers of a benchmark.

    Args:
        benchmark: which.
        results: of the harness, for this benchmark alone.

    Returns:
        The one number of a paper's benchmark. For others all that the harness found: of the group, or of its parts where
        the group has no number of its own.

    Raises:
        KeyError: the harness has not measured what the paper's table shows.
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
    """The plain mean over benchmarks, as in the papers; None while one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _metrics_of_task(of_task: Mapping[str, Any]) -> list[str]:
    """Metrics of a task, `METRIC,FILTER`."""
    return [
        name
        for name, value in of_task.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    ]


def _stderr(of_task: Mapping[str, Any], metric: str) -> float | None:
    name, _, filter_name = metric.partition(",")
    value = of_task.get(f"{name}_stderr,{filter_name}")
    return float(value) if isinstance(value, int | float) else None  # "N/A" otherwise
