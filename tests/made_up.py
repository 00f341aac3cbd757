"""Runs that were never played, as records or as directories, with the contents that a test needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from spin_trl.report.record import RunRecord, StageRecord
from spin_trl.run.stage import SELF_PLAY, Stage

PROMPTS = 100

MEASURED: dict[str, float] = {
    "held_out": 100.0, "nll": 0.5, "nll_low": 0.4, "nll_high": 0.6, "length_real": 12.0, "length_generated": 14.5,
    "empty": 0.02, "truncated": 0.04, "identical": 0.1, "degeneration/repetition": 0.05, "degeneration/distinct": 0.9,
    "degeneration/odd_characters": 0.001, "degeneration/copies": 0.0, "logps/real": -6.0,
}  # fmt: skip
"""Figures that every stage has."""

PLAYED: dict[str, float] = {
    "win_rate": 0.8, "win_rate_low": 0.7, "win_rate_high": 0.9, "gap": 2.5, "gap_low": 2.0, "gap_high": 3.0, "kl": 3.0,
    "logratio/real": 0.5, "logratio/real_low": 0.4, "logratio/real_high": 0.6, "logratio/generated": -2.0,
    "logratio/generated_low": -2.5, "logratio/generated_high": -1.5, "logps/generated": -9.0, "real_below_generated": 0.2,
}  # fmt: skip
"""Figures of a stage that has an opponent."""

HISTOGRAM = {"edges": [-2.0, -1.0, 0.0, 1.0], "real": [0.0, 1.0, 2.0], "generated": [2.0, 1.0, 0.0]}


def key(number: int) -> str:
    """Return the key of a prompt."""
    return f"key-{number:03}"


def scored(right: Iterable[int], prompts: int = PROMPTS) -> dict[str, dict[str, float]]:
    """Return values by prompt of a model that is right on these."""
    known = set(right)
    return {
        "score": {key(number): float(number in known) for number in range(prompts)},
        "nll": {key(number): 5.0 for number in range(prompts)},
        "real_tokens": {key(number): 10.0 for number in range(prompts)},
    }


def stage(name: str, right: Iterable[int] | None = None, **changes: Any) -> StageRecord:
    """Return a stage of a run by its name in the run directory: `start`, `iteration-0`, `baseline/sft/iteration-0`.

    Args:
        name: name in the run directory.
        right: prompts that its model gets right; None if nothing was measured.
        changes: fields of the stage.
    """
    fields: dict[str, Any] = {"name": Stage(name)}
    if right is not None:
        right = list(right)
        score = len(right) / PROMPTS
        figures = {**MEASURED, "score": score, "score_low": score - 0.05, "score_high": score + 0.05}
        if fields["name"].arm == SELF_PLAY and not fields["name"].is_start:
            figures |= PLAYED
            fields["histogram"] = HISTOGRAM
        fields |= {"figures": figures, "values": scored(right)}
    return StageRecord(**{**fields, **changes})


def record(*stages: StageRecord, best: str | None = None, **changes: Any) -> RunRecord:
    """Return the record of a run of these stages, with as many iterations as planned, chosen by score."""
    iterations = sum(one.name.startswith("iteration") for one in stages)
    fields = {"name": "made-up", "metric": "score", "greater_is_better": True, "planned": max(iterations, 1)}
    return RunRecord(**{**fields, "stages": stages, "best": best, **changes})


def played(*nlls: float | None, prompts: int = PROMPTS, spread: float = 0.0, **figures: float) -> RunRecord:
    """Return a run whose start and iterations have these negative log-likelihoods per token.

    Args:
        nlls: NLLs of the start and of each iteration; None if nothing was measured, NaN if the logits were NaN.
        prompts: number of held-out prompts.
        spread: distance of half of a model's prompts above its mean, and of the others below; the order varies by
        model.
        figures: additional figures of the newest model.
    """
    stages = []
    for number, nll in enumerate(nlls):
        found = {} if nll is None else {"held_out": float(prompts)}
        values: dict[str, dict[str, float]] = {}
        if nll is not None and not math.isnan(nll):
            found["nll"] = nll
            signs = [1 if (prompt + number) % 2 else -1 for prompt in range(prompts)]
            values["nll"] = {key(prompt): 10 * (nll + spread * sign) for prompt, sign in enumerate(signs)}
            values["real_tokens"] = {key(prompt): 10.0 for prompt in range(prompts)}
        found |= figures if number == len(nlls) - 1 else {}
        stages.append(stage(Stage.of(number - 1), figures=found, values=values))
    return record(*stages, metric="nll", greater_is_better=False)


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """Return a line of `samples.jsonl`."""
    usual = {"key": key(number), "prompt": f"Prompt {number}?", "real": f"Real answer {number}."}
    return {**usual, "generated": f"Made-up answer {number}.", "finish_reason": "eos", "score": 1.0, **changes}


def write_run(
    path: Path,
    of: RunRecord,
    samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    **settings: Any,
) -> Path:
    """Write a run directory that holds a record, and samples by the names of stages; by default every stage has three."""
    path.mkdir(parents=True, exist_ok=True)
    known = {"metric_for_best_iteration": of.metric, "num_iterations": of.planned, "scorer": ["exact_match"]}
    (path / "recipe.yaml").write_text(yaml.safe_dump({**known, **settings}), encoding="utf-8")
    for one in of.stages:
        if not one.figures:
            continue
        folder = path / one.name
        (folder / "held-out").mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(dict(one.figures)), encoding="utf-8")
        (folder / "held-out" / "values.json").write_text(json.dumps(one.values), encoding="utf-8")
        (folder / "histograms.json").write_text(json.dumps(dict(one.histogram)), encoding="utf-8")
        rows = samples.get(one.name, []) if samples is not None else [sample(number) for number in range(3)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entries = of.journal or [
        {"phase": "evaluate", "stage": one.name, "time": 1.8e9 + number, "seconds": 2.0}
        for number, one in enumerate(of.stages)
        if one.figures
    ]
    (path / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    if of.best is not None:
        (path / "best.json").write_text(json.dumps({"stage": of.best, "metric": of.metric}), encoding="utf-8")
    return path
