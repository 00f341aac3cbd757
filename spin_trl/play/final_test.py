"""The test phase: at the end of a run, measures its final models on the test set, which no decision in the run depends on.

The best iteration was chosen by its figures on the held-out prompts, so those are slightly optimistic. The figures on the
test set are not: each model is measured on it once, and no decision follows.
"""

from __future__ import annotations

import time

from accelerate import PartialState

from ..errors import DivergedError
from ..evaluation.scoring import notes_on
from ..files import write_json
from ..models.saving import hashing
from ..report.record import read_record
from ..run.journal import TEST, Step
from ..run.objects import read_named_numbers
from ..run.run import Run, since
from ..run.stage import START, Stage
from .answering.at_hand import at_hand
from .evaluate import Measurement, files_of, measure_on, write_samples
from .gate import finalists

PROMPTS = "prompts"
"""Key for the number of prompts in a model's figures on a set."""


def measure_finalists(run: Run) -> None:
    """Measure base, start, best iteration and each baseline's best on the test set; skip those already measured."""
    if not len(run.measured_rows(TEST)):
        return
    for stage in finalists(read_record(run.directory), run.play):
        _test(run, stage)


def _test(run: Run, stage: Stage) -> None:
    """Measure a stage's model on the test set, and write its figures to `test/metrics.json` and the journal."""
    rows, folder = run.measured_rows(TEST), run.directory.measured_on(stage, TEST)
    is_done = run.done(Step.TEST, stage) is not None
    PartialState().wait_for_everyone()  # all must have checked before one writes
    if is_done:
        return
    started, is_main = time.monotonic(), PartialState().is_main_process
    if is_main:
        run.directory.own(stage)
        folder.mkdir(parents=True, exist_ok=True)
    found: Measurement | None = None
    with hashing() as written:
        try:
            with at_hand(run, run.model_of(stage)) as policy:
                starts = run.directory.measured_on(START, TEST) / "values.json"
                before = None if stage.iteration < 0 else read_named_numbers(starts)
                found = measure_on(run, policy, rows, stage, folder, "test", run.scorer, before=before)
        except DivergedError:
            if stage.iteration < 0:
                raise
        figures = {PROMPTS: float(len(rows))}
        if found is not None:
            figures |= {name: value for name, value in found.figures.items() if name != "held_out"}
        if is_main and found is not None:
            write_json(folder / "values.json", found.values)
            write_samples(folder / "samples.jsonl", rows, found)
        if is_main:
            write_json(folder / "metrics.json", figures)
    run.record(
        Step.TEST,
        stage,
        seconds=since(started),
        work_seconds=0.0 if found is None else round(found.work_seconds, 3),
        **figures,
        **({} if found is None else found.unscored | notes_on(run.scorer)),
        files=files_of(run, stage, TEST, written),
    )
