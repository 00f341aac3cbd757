"""Evaluates a stage's model on the held-out prompts: likelihood, its own answers, and a comparison with its opponent."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..counts import listed
from ..data.kept_columns import kept_columns
from ..errors import DivergedError, RunDirectoryError
from ..evaluation.degeneration import AnsweredPrompt, measure, normalised
from ..evaluation.diagnostics import game_figures, histograms
from ..evaluation.scoring import AnswerToScore, Score, Scorer, columns_of, layers_of, notes_on, scores_of
from ..evaluation.summary import ByPrompt, HeldOutRow, changes, summarise, unscored, values_of
from ..files import Checksum, write_json, write_text
from ..generation.generations import Generations
from ..generation.store import GenerationStore
from ..models.logps import response_logps
from ..models.saving import hashing
from ..models.vocabulary import embeddings_of
from ..run.integrity import recorded
from ..run.journal import ISOLATION, Step
from ..run.objects import PLAYED_AGAIN, read_named_numbers
from ..run.run import Run, since
from ..run.stage import Stage
from ..training.pair_lengths import truncated
from .answer_together import answer_measured, answer_together
from .answering.at_hand import ModelAtHand, at_hand

logger = logging.getLogger(__name__)

UNSCORED = "unscored"
"""Key in the journal's `evaluate` entry: the number of prompts whose score is not a finite number, by name of the figure."""

LOGPS = "logps.json"
"""File of a model's log-probabilities by prompt: of the `real` response and of its own (`generated`)."""

NAMED_KEYS = 5
"""Maximum number of keys that a message names."""


def evaluate(run: Run, stage: str, opponent_stage: str | None, compared_with: str | None = None) -> None:
    """Evaluate a stage's model on the held-out prompts, and write its figures to its `metrics.json` and the journal.

    Args:
        run: the run.
        stage: stage whose model is evaluated.
        opponent_stage: stage of its opponent, which has been evaluated; None if it has none.
        compared_with: stage of the model to compare with, prompt by prompt; None: its opponent, if any.
    """
    rows = run.rows(held_out=True)
    is_done = run.done(Step.EVALUATE, stage) is not None
    PartialState().wait_for_everyone()  # all must have checked before one writes: a diverged model finishes at once
    if is_done or len(rows) == 0:
        return
    started, answered = time.monotonic(), answer_together(run, Stage(stage))
    with hashing() as written:
        try:
            with at_hand(run, run.model_of(stage)) as policy:
                figures, work_seconds = _figures_of_stage(run, policy, rows, stage, opponent_stage, compared_with)
        except DivergedError:
            if Stage(stage).iteration < 0:
                raise
            # A model without figures; the gate judges it, like any other model that has become worse.
            figures, work_seconds = {"held_out": float(len(rows))}, since(started)
            if PartialState().is_main_process:
                write_json(run.directory.metrics(stage), figures)
    files = files_of(run, stage, "held-out", written)
    seconds = round(since(started) - answered.ahead, 3)
    work_seconds = round(answered.held_out + work_seconds, 3)
    run.record(Step.EVALUATE, stage, seconds=seconds, work_seconds=work_seconds, **figures, files=files)


def files_of(run: Run, stage: str, results: str, written: Mapping[Path, Checksum]) -> dict[str, Any]:
    """Return the checksums of the files that a measurement wrote, by their names in the run directory.

    Args:
        run: the run.
        stage: stage of the model that was measured.
        results: folder of its answers, inside the stage's folder.
        written: checksums of all files that were written, by path.
    """
    folder = run.directory.stage(stage).resolve()
    found = {
        path.relative_to(folder).as_posix(): checksum
        for path, checksum in written.items()
        if path.is_relative_to(folder)
    }
    for name in ("sampled", "greedy"):
        lists = GenerationStore(run.directory.stage(stage) / results / name).lists()
        found |= {f"{results}/{name}/{file}": checksum for file, checksum in lists.items()}
    return recorded(stage, {name: checksum for name, checksum in found.items() if "/shard-" not in name})


@dataclass(frozen=True)
class Measurement:
    """A model's measurements on a set of prompts.

    Attributes:
        rows: measurements by prompt, in the order of the prompts.
        answers: the model's answers, in the same order.
        figures: finite figures by name.
        values: finite values by figure and prompt.
        unscored: for the journal, numbers of prompts without a finite score.
        work_seconds: seconds of work.
    """

    rows: list[HeldOutRow]
    answers: list[AnsweredPrompt]
    figures: dict[str, float]
    values: ByPrompt
    unscored: dict[str, Any]
    work_seconds: float


def _figures_of_stage(
    run: Run, policy: ModelAtHand, rows: Dataset, stage: str, opponent_stage: str | None, compared_with: str | None
) -> tuple[dict[str, Any], float]:
    """Measure a model on the held-out prompts and write the results to the stage's folder.

    Returns:
        The values for the journal (figures, and numbers of prompts without a finite score), and the seconds of work.
    """
    other = compared_with or opponent_stage
    found = measure_on(
        run,
        policy,
        rows,
        stage,
        run.directory.held_out(stage),
        "held-out",
        run.scorer,
        opponents=None if opponent_stage is None else run.directory.held_out(opponent_stage),
        before=None if other is None else read_named_numbers(run.directory.values(other)),
    )
    if PartialState().is_main_process:
        write_json(run.directory.values(stage), found.values)
        write_samples(run.directory.samples(stage), rows, found)
        write_json(run.directory.histograms(stage), histograms(found.rows))
        write_json(run.directory.metrics(stage), found.figures)
    layers = layers_of(run.scorer)
    isolation = {} if layers is None else {ISOLATION: layers}
    return found.figures | found.unscored | isolation | notes_on(run.scorer), found.work_seconds


def measure_on(
    run: Run,
    policy: ModelAtHand,
    rows: Dataset,
    stage: str,
    folder: Path,
    kind: str,
    scorer: Scorer | None,
    opponents: Path | None = None,
    before: ByPrompt | None = None,
) -> Measurement:
    """Let a model answer prompts, and measure it on them.

    Args:
        run: the run.
        policy: the model.
        rows: prepared rows.
        stage: stage of the model.
        folder: folder for its answers and log-probabilities.
        kind: what the prompts are called in messages: held-out, test, retention.
        scorer: scorer of the answers, or None.
        opponents: the same folder of its opponent; None: it is not compared with an opponent.
        before: values by prompt of the model whose differences are among the figures; None: no differences.
    """
    work_seconds = answer_measured(run, policy, rows, Stage(stage), folder, kind)
    run.progress.begin()
    measuring_started = time.monotonic()
    measured = _measure(run, policy, rows, folder, scorer, opponents)
    work_seconds += time.monotonic() - measuring_started
    run.progress.begin()
    losses = dict(zip(run.args.losses, run.args.loss_weights or [1.0] * len(run.args.losses), strict=True))
    trained = run.done(Step.TRAIN, stage) or {}
    settings = run.args.objective_values() | {"beta": run.args.beta} | trained.get("objective", {})
    figures = summarise(measured) | game_figures(measured, losses, settings)
    by_prompt = dict(zip(rows["key"], measured, strict=True))
    values = {
        name: {key: value for key, value in by_key.items() if math.isfinite(value)}
        for name, by_key in values_of(by_prompt).items()
    }
    if before is not None:
        figures |= changes(values, before)
    answers = _answers(run, rows, folder)
    figures |= measure(answers, {normalised(text) for text in run.rows()["real"]})
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}  # JSON has no other numbers
    left_out = _left_out(stage, kind, unscored(by_prompt), len(rows))
    return Measurement(measured, answers, figures, values, left_out, work_seconds)


def _left_out(stage: str, kind: str, unscored: Mapping[str, Sequence[str]], total: int) -> dict[str, Any]:
    """Warn about scores that are not finite, and return their counts for the journal."""
    for name, keys in unscored.items():
        if PartialState().is_main_process:
            logger.warning(
                "%s: `%s` is NaN or infinite for %d of %d %s prompts, which are excluded from its mean: %s.",
                *(stage, name, len(keys), total, kind, listed(keys, NAMED_KEYS)),
            )
    return {UNSCORED: {name: len(keys) for name, keys in unscored.items()}} if unscored else {}


def _answers(run: Run, rows: Dataset, folder: Path) -> list[AnsweredPrompt]:
    """Return a model's answers to all held-out prompts."""
    tokenizer = run.tokenizer()
    sampled = Generations.load({0: GenerationStore(folder / "sampled")})
    return [
        AnsweredPrompt(ids, row["real_ids"], str(tokenizer.decode(ids, skip_special_tokens=True)), row["real"])
        for row in rows
        for ids in [sampled[row["key"], 0, 0]]
    ]


def _measure(
    run: Run, policy: ModelAtHand, rows: Dataset, folder: Path, scorer: Scorer | None, opponents: Path | None
) -> list[HeldOutRow]:
    """Measure all rows, and return them in order. Processes share the work, and each gets all results."""
    # Long, since a row's figures come from the same forward passes.
    state = PartialState()
    tokenizer = run.tokenizer()
    mine = [rows[index] for index in range(state.process_index, len(rows), state.num_processes)]
    names = [(row["key"], 0, 0) for row in mine]
    sampled = Generations.load({0: GenerationStore(folder / "sampled")})
    model, accelerator = policy()
    sampled.check_ids(embeddings_of(model))

    def report(done: int) -> None:
        # The processes' shares are equal but for one row, so this one's progress stands for all.
        run.progress.report(min(done * state.num_processes, run.progress.total))

    def kept(responses: list[list[int]]) -> list[tuple[list[int], list[int]]]:
        limits = run.args.max_length, run.args.truncation_mode
        return [truncated(row["prompt_ids"], ids, *limits) for row, ids in zip(mine, responses, strict=True)]

    def logps(pairs: list[tuple[list[int], list[int]]], done: int) -> list[float]:
        return response_logps(
            model,
            pairs,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=run.args.per_device_eval_batch_size,
            autocast=accelerator.autocast,
            on_progress=lambda more: report(done + more),
        )

    run.progress.begin("responses measured", 0, (2 if opponents is None else 3) * len(rows))
    reals, answers = kept([row["real_ids"] for row in mine]), kept([sampled[name] for name in names])
    real, own = logps(reals, 0), logps(answers, len(mine))
    replies: list[tuple[list[int], list[int]]] = []
    if opponents is not None:
        before = _recorded_logps(opponents / LOGPS, [key for key, _, _ in names])
        of_opponent = Generations.load({0: GenerationStore(opponents / "sampled")})
        of_opponent.check_ids(embeddings_of(model))
        replies = kept([of_opponent[name] for name in names])
        against = logps(replies, 2 * len(mine))
    greedy = Generations.load({0: GenerationStore(folder / "greedy")}) if run.play.evaluate_greedy else None

    def scores(responses: Generations, done: int) -> Sequence[Score | None]:
        if scorer is None:
            return [None] * len(mine)
        items = [
            AnswerToScore(
                row["prompt"],
                row["real"],
                str(tokenizer.decode(responses[name], skip_special_tokens=True)),
                _scored_columns(run, scorer, row),
            )
            for row, name in zip(mine, names, strict=True)
        ]
        return scores_of(scorer, items, lambda more: report(done + more))

    if scorer is not None:
        run.progress.begin("answers scored", 0, (1 if greedy is None else 2) * len(rows))
    sampled_scores = scores(sampled, 0)
    greedy_scores = [None] * len(mine) if greedy is None else scores(greedy, len(mine))
    measured = {}
    for index, (row, name) in enumerate(zip(mine, names, strict=True)):
        played: dict[str, Any] = {}
        if replies:
            opponent = before[row["key"]]
            played = {
                "real_logratio": real[index] - opponent["real"],
                "generated_logratio": against[index] - opponent["generated"],
                "opponent_generated_logp": against[index],
                "opponent_generated_tokens": len(replies[index][1]),
            }
        measured[row["key"]] = HeldOutRow(
            real_logp=real[index],
            real_tokens=len(reals[index][1]),
            generated_logp=own[index],
            generated_tokens=len(answers[index][1]),
            finish_reason=sampled.finish_reasons[name],
            identical=sampled[name] == row["real_ids"],
            **played,
            score=sampled_scores[index],
            greedy_score=greedy_scores[index],
        )
    everything = {key: row for part in gather_object([measured]) for key, row in part.items()}
    if state.is_main_process:
        logps_of = {key: {"real": row.real_logp, "generated": row.generated_logp} for key, row in everything.items()}
        write_json(folder / LOGPS, logps_of)
    state.wait_for_everyone()
    return [everything[key] for key in rows["key"]]


def _scored_columns(run: Run, scorer: Scorer, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a prepared row that a scorer takes."""
    columns, kept = columns_of(scorer), kept_columns(row)
    missing = sorted(columns.required - kept.keys())
    if missing:
        raise RunDirectoryError(
            f"The scorer needs `{missing[0]}` of each row, but the rows of {run.directory.path} were prepared for "
            "another scorer and don't have it. Start a new run, or use the scorer that the run began with."
        )
    return {name: kept[name] for name in columns.among(kept)}


def _recorded_logps(path: Path, keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return an opponent's log-probabilities from when it was evaluated itself."""
    found = read_named_numbers(path)
    for key in keys:
        missing = next((name for name in ("real", "generated") if name not in found.get(key, {})), None)
        if missing is not None:
            raise RunDirectoryError(f"{path} is damaged: the prompt {key!r} has no `{missing}`. {PLAYED_AGAIN}")
    return found


def _as_json(score: Score | None) -> Any:
    """Return a score with null in place of numbers that JSON does not have."""
    if isinstance(score, Mapping):
        return {name: _as_json(value) for name, value in score.items()}
    return score if score is None or math.isfinite(score) else None


def write_samples(path: Path, rows: Dataset, found: Measurement) -> None:
    """Write the prompts with their real and generated responses, one JSON object per line."""
    lines = [
        {name: row[name] for name in ("key", "prompt", "real")}
        | {"generated": answer.generated, "finish_reason": one.finish_reason, "score": _as_json(one.score)}
        for row, answer, one in zip(rows, found.answers, found.rows, strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(path, text)
