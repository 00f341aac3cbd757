"""Runs lm-evaluation-harness benchmarks on a stage's model. Each result is stored as soon as its benchmark finishes, and
reused from then on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..errors import BenchmarkError, LaunchError, RecipeError, RunDirectoryError
from ..evaluation.benchmarks import Benchmark, check_tasks, harness_version, scores
from ..files import parts_digest, stamps, write_json
from ..models.digest import digest
from ..run.journal import Step
from ..run.objects import read_object
from ..run.run import Run, since
from .answering.at_hand import at_hand
from .plugin import training_plugin

logger = logging.getLogger(__name__)

EVALUATED = "evaluated"
"""Key for what was evaluated, and how, in addition to the harness's own keys."""


_OF_HARNESS = ("results", "configs", "n-shot")
"""The harness's own keys from which its numbers are read."""


@dataclass(frozen=True)
class Settings:
    """How benchmarks are run.

    Attributes:
        batch_size: number of requests per batch, or `auto`; None: the run's evaluation batch size.
        limit: number of questions per task, or a fraction of them; None: all.
        apply_chat_template: whether to format questions with the model's chat template.
        include_path: folder with custom tasks.
        log_samples: whether to store every question with its answer as well.
        option: option or setting that names the tasks, for messages.
    """

    batch_size: int | str | None = None
    limit: float | None = None
    apply_chat_template: bool = False
    include_path: str | None = None
    log_samples: bool = False
    option: str = "--tasks"


@dataclass
class Outcome:
    """The outcome of running benchmarks.

    Attributes:
        results: the harness's results by benchmark, new or stored.
        failures: messages about benchmarks that failed.
    """

    results: dict[Benchmark, dict[str, Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, benchmark: Benchmark, results: dict[str, Any]) -> dict[str, float]:
        """Add results, or a failure if they are incomplete. Return their figures, for the journal."""
        try:
            figures = {f"{one.task} {one.metric}": one.value for one in scores(benchmark, results)}
        except KeyError as error:
            self.failures.append(
                f"{benchmark.name} ({benchmark.task}): the harness did not report {error}, the metric in the paper's table."
            )
            return {}
        self.results[benchmark] = results
        return figures


def result_path(run: Run, stage: str, benchmark: Benchmark, settings: Settings) -> Path:
    """Return the path of a benchmark's results; its name includes the settings that change the usual numbers."""
    parts = [benchmark.task]
    parts += [f"{benchmark.shots}-shot"] if benchmark.shots is not None else []
    parts += ["chat"] if settings.apply_chat_template else []
    parts += [f"limit-{settings.limit:g}"] if settings.limit is not None else []
    return run.directory.benchmarks(stage) / f"{'-'.join(parts)}.json"


def run_benchmarks(
    run: Run, stage: str, benchmarks: Sequence[Benchmark], settings: Settings, *, again: bool = False
) -> Outcome:
    """Return the results of benchmarks, running only those that have no stored result.

    Args:
        run: the run.
        stage: stage whose model is evaluated; the model must exist.
        benchmarks: benchmarks to run; if one fails, the others are still run.
        settings: how benchmarks are run.
        again: whether to rerun those with stored results.

    Raises:
        RecipeError: if the harness is not installed, or has no such task.
        LaunchError: if a plugin of the launcher would shard the model.
    """
    version = harness_version()
    if training_plugin() is not None:
        raise LaunchError(
            f"Benchmarks need a full replica of the model in each process, but {training_plugin()} shards it. Launch them "
            "without the plugin."
        )
    known = {
        "own_tasks": _digest_of_folder(settings.include_path),
        "lm_eval": version,
        "model_files": _files_of(run.model_of(stage)),
    }
    outcome, missing = Outcome(), []
    for benchmark in benchmarks:
        stored = {} if again else _stored_results(result_path(run, stage, benchmark, settings))
        if not stored or not _fits(stored, known, settings):
            missing.append(benchmark)
        else:
            outcome.add(benchmark, stored)
    PartialState().wait_for_everyone()  # all must have read the same results before one writes
    if missing:
        _run(run, stage, missing, settings, known, outcome)
    return outcome


def _run(
    run: Run, stage: str, missing: list[Benchmark], settings: Settings, known: dict[str, Any], outcome: Outcome
) -> None:
    """Run benchmarks and store their results, along with `known`, which applies to all of them."""
    # Long, since a failure anywhere in it must not lose the results so far.
    from ..evaluation.harness import SharedModel, run_benchmark, tasks

    check_tasks([benchmark.task for benchmark in missing], tasks(settings.include_path).all_tasks, settings.option)
    with at_hand(run, run.model_of(stage)) as policy:
        model, accelerator = policy()
        harness_model = SharedModel(
            model,
            run.tokenizer(),
            accelerator,
            settings.batch_size or run.args.per_device_eval_batch_size,
            chat_template_kwargs=run.args.template_kwargs,
            disable_tqdm=bool(run.args.disable_tqdm),
        )
        known = known | {
            "stage": stage,
            "model": run.model_of(stage),
            "model_digest": digest(model),
            "num_processes": PartialState().num_processes,
            "mixed_precision": accelerator.mixed_precision,
        }
        for benchmark in missing:
            started = time.monotonic()
            try:
                results = run_benchmark(
                    harness_model,
                    benchmark,
                    settings.include_path,
                    settings.limit,
                    apply_chat_template=settings.apply_chat_template,
                    log_samples=settings.log_samples,
                )
            except BenchmarkError as error:
                outcome.failures.append(str(error))
                continue
            asked = {
                "task": benchmark.task,
                "num_fewshot": benchmark.shots,
                "limit": settings.limit,
                "apply_chat_template": settings.apply_chat_template,
                "seconds": since(started),
            }
            path = result_path(run, stage, benchmark, settings)
            figures: dict[str, float] = {}
            if results is not None:
                whole = {EVALUATED: {**known, **asked, "time": round(time.time(), 3)}, **results}
                run.directory.own(stage)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, whole)
                figures = outcome.add(benchmark, whole)
            run.record(Step.BENCHMARK, stage, **asked, **figures, file=path.name)
        del harness_model, model


def _stored_results(path: Path) -> dict[str, Any]:
    """Return stored results; empty if there are none, or they can't be read."""
    try:
        found = read_object(path, "It is measured again.")
        wrong = next((name for name in (EVALUATED, *_OF_HARNESS) if not isinstance(found.get(name), dict)), None)
        if found and wrong is not None:
            raise RunDirectoryError(f"{path} is damaged: it has no `{wrong}`. It is measured again.")
    except RunDirectoryError as error:
        logger.warning("%s", error)
        return {}
    return found


def _fits(stored: dict[str, Any], known: dict[str, Any], settings: Settings) -> bool:
    """Return whether stored results are still valid for these settings."""
    before = stored.get(EVALUATED, {})
    has_all = "samples" in stored or not settings.log_samples
    return has_all and all(before.get(name) == value for name, value in known.items())


def _files_of(model: str) -> dict[str, list[int]] | None:
    """Return the sizes and modification times (ns) of a model's weight files, which identify the weights; None on the Hub.

    A digest would be more reliable, but computing it means loading the model, which stored results are meant to avoid.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    return stamps(folder, "*.safetensors")


def _digest_of_folder(path: str | None) -> str | None:
    """Return a hash of the tasks in a folder and of their data's sizes and times: if it changes, results are invalid."""
    if path is None:
        return None
    folder = Path(path)
    if not folder.is_dir():
        raise RecipeError(f"`--include_path`: the folder {path} does not exist.")
    parts: list[str | bytes] = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
        is_code, stat = file.suffix in (".yaml", ".yml", ".py"), file.stat()
        parts += [
            str(file.relative_to(folder)),
            file.read_bytes() if is_code else f"{stat.st_size} {stat.st_mtime_ns}",
        ]
    return parts_digest(parts)
