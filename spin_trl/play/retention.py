"""Measures what a model has kept of other tasks: at every stage, on a set that is never trained on, compared with the start.

The likelihood of the set's responses is always measured. With `retain_scorer` the model also answers the prompts, and the
answers are scored; with `retain_tasks` it is measured on tasks of lm-evaluation-harness. No decision depends on the figures.
"""

from __future__ import annotations

import math
import time
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..errors import BenchmarkError, DivergedError
from ..evaluation.benchmarks import Benchmark, scores
from ..evaluation.figures import is_score
from ..evaluation.intervals import of_independent
from ..evaluation.scoring import notes_on
from ..evaluation.summary import ByPrompt, changes, likelihoods, mean_of, token_counts
from ..files import write_json
from ..models.logps import response_logps
from ..models.saving import hashing
from ..run.journal import RETENTION, Step
from ..run.objects import read_named_numbers, read_numbers
from ..run.run import Run, since
from ..run.stage import START, Stage
from ..training.pair_lengths import truncated
from .answering.at_hand import ModelAtHand, at_hand
from .benchmark import Settings, run_benchmarks
from .evaluate import files_of, measure_on
from .final_test import PROMPTS


def measures_retention(run: Run) -> bool:
    """Return whether a run has a retention set, or tasks of lm-evaluation-harness in its place."""
    return bool(run.play.retain_tasks) or len(run.measured_rows(RETENTION)) > 0


def measure_retention(run: Run, stage: Stage) -> None:
    """Measure a stage's model on the retention set, and write its figures to `retention/metrics.json` and the journal.

    A stage whose model no longer exists is skipped: the set may have been added after it was deleted.

    Raises:
        BenchmarkError: if a task of lm-evaluation-harness can't be run.
    """
    is_done = not measures_retention(run) or run.done(Step.RETENTION, stage) is not None
    has_model = (stage == run.given_stage and run.model is not None) or run.directory.model(stage).is_dir()
    PartialState().wait_for_everyone()  # all must have checked before one writes
    if is_done or not has_model:
        return
    started, is_main = time.monotonic(), PartialState().is_main_process
    rows, folder = run.measured_rows(RETENTION), run.directory.measured_on(stage, RETENTION)
    if is_main:
        run.directory.own(stage)
        folder.mkdir(parents=True, exist_ok=True)
    of_start = run.directory.measured_on(START, RETENTION)
    before = None if stage.iteration < 0 else read_named_numbers(of_start / "values.json")
    figures: dict[str, float] = {PROMPTS: float(len(rows))}
    with hashing() as written:
        values: ByPrompt = {}
        left_out: dict[str, Any] = {}
        if len(rows):
            try:
                with at_hand(run, run.model_of(stage)) as policy:
                    found, values, left_out = _on_rows(run, policy, rows, stage, before)
                    figures |= found
            except DivergedError:
                if stage.iteration < 0:
                    raise
        figures |= _on_tasks(run, stage, {} if stage.iteration < 0 else read_numbers(of_start / "metrics.json"))
        if is_main:
            write_json(folder / "values.json", values)
            write_json(folder / "metrics.json", figures)
    files = files_of(run, stage, RETENTION, written)
    notes = notes_on(run.retain_scorer) if len(rows) else {}
    run.record(Step.RETENTION, stage, seconds=since(started), **figures, **left_out, **notes, files=files)


def _on_rows(
    run: Run, policy: ModelAtHand, rows: Dataset, stage: Stage, before: ByPrompt | None
) -> tuple[dict[str, float], ByPrompt, dict[str, Any]]:
    """Return a model's figures on the retention set with their changes from the start, the values by prompt, and for the
    journal the numbers of prompts without a finite score."""
    left_out: dict[str, Any] = {}
    if run.retain_scorer is None:
        values = _likelihoods(run, policy, rows)
    else:
        folder = run.directory.measured_on(stage, RETENTION)
        measured = measure_on(run, policy, rows, stage, folder, RETENTION, run.retain_scorer)
        values, left_out = measured.values, measured.unscored
    figures: dict[str, float] = {}
    for name, by_prompt in values.items():
        if name == "nll" or is_score(name):
            tokens = token_counts(values)
            weights = [tokens[key] for key in by_prompt] if name == "nll" else None
            figures |= mean_of(name, list(by_prompt.values()), weights)
    figures |= changes(values, before) if before is not None else {}
    return {name: value for name, value in figures.items() if math.isfinite(value)}, values, left_out


def _likelihoods(run: Run, policy: ModelAtHand, rows: Dataset) -> ByPrompt:
    """Return the negative log-likelihood of all responses. Processes share the work, and each gets all results."""
    state, (model, accelerator) = PartialState(), policy()
    mine = [rows[index] for index in range(state.process_index, len(rows), state.num_processes)]
    limits = run.args.max_length, run.args.truncation_mode
    pairs = [truncated(row["prompt_ids"], row["real_ids"], *limits) for row in mine]
    logps = response_logps(
        model,
        pairs,
        pad_token_id=run.tokenizer().pad_token_id,
        batch_size=run.args.per_device_eval_batch_size,
        autocast=accelerator.autocast,
    )
    measured = {row["key"]: (logp, len(ids)) for row, logp, (_, ids) in zip(mine, logps, pairs, strict=True)}
    everything = {key: one for part in gather_object([measured]) for key, one in part.items()}
    found = {key: everything[key] for key in rows["key"]}
    tokens = {key: count for key, (_, count) in found.items()}
    return likelihoods({key: logp for key, (logp, _) in found.items() if math.isfinite(logp)}, tokens)


def _on_tasks(run: Run, stage: Stage, before: dict[str, float]) -> dict[str, float]:
    """Return a model's numbers on tasks of lm-evaluation-harness, as TASK/METRIC, with their changes from the start."""
    tasks = [Benchmark(name, name) for name in run.play.retain_tasks or ()]
    if not tasks:
        return {}
    outcome = run_benchmarks(run, stage, tasks, Settings(limit=run.play.retain_max, option="retain_tasks"))
    if outcome.failures:
        raise BenchmarkError("\n".join(["`retain_tasks` could not be measured:", *outcome.failures]))
    figures: dict[str, float] = {}
    for task, results in outcome.results.items():
        for one in scores(task, results):
            name = f"{one.task}/{one.metric}"
            figures[name] = one.value
            if one.stderr is not None and math.isfinite(one.stderr):
                figures |= {f"{name}_se": one.stderr}
            figures |= _change_of_task(name, figures, before)
    return figures


def _change_of_task(name: str, now: dict[str, float], before: dict[str, float]) -> dict[str, Any]:
    """Return the change of a task's number from the start, with its interval if both have a standard error.

    The harness's numbers are not paired by question here, so the interval is wider than a paired one would be.
    """
    if name not in before:
        return {}
    change, error = f"{name}_change", f"{name}_se"
    found = {change: now[name] - before[name]}
    if error in now and error in before:
        low, high = of_independent(found[change], now[error], before[error])
        found |= {f"{change}_low": low, f"{change}_high": high}
    return found
