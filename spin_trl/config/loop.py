"""Settings of the loop: a flat dataclass in TRL's style, as those of an iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..counts import counted
from ..data.held_out import OVERLAP
from ..errors import RecipeError
from ..evaluation.degeneration import SIGNS
from ..evaluation.figures import SCORE_GREEDY, figure_of, is_score
from ..objectives.fields import setting
from .checks import Bounds, as_mapping, check_fields, shown, thresholds

PER_ITERATION = ("learning_rate", "beta", "num_train_epochs", "temperature")
"""Settings that may differ from iteration to iteration: one number, or a list with one entry an iteration."""


@dataclass
class SelfPlayConfig:
    """Settings of the loop: how many iterations, where they are kept, and what they are compared with.

    Raises:
        RecipeError: a value is out of range, or a per-iteration list does not fit `num_iterations`.
    """

    num_iterations: Annotated[int, Bounds(1, 10_000)] = setting(
        3, "Iterations to play. Numbered from 0, as in the papers."
    )
    run_dir: str | None = setting(
        None,
        "Where everything of the run is kept. By default `output_dir`, if the recipe sets it, or runs/NAME, NAME being the "
        "recipe's.",
    )
    existing_run: str = setting(
        "continue",
        "If the run directory holds a run: continue it, fail, or overwrite it (what the run has written, and nothing "
        "else).",
        choices=["continue", "fail", "overwrite"],
    )
    per_iteration: dict[str, Any] | str | None = setting(
        None,
        "Lists of values, one an iteration, for learning_rate, beta, num_train_epochs or temperature. In a recipe, write "
        "the list where the number would stand.",
    )
    history: Annotated[int, Bounds(0)] = setting(
        0, "How many earlier iterations' generations are trained on again (SPIN's paper: 1)."
    )
    lora_opponent: str = setting(
        "adapter",
        "With LoRA, the opponent of a later iteration: a frozen copy of the adapter, or the adapter merged into the base "
        "model.",
        choices=["adapter", "merge"],
    )
    held_out_fraction: Annotated[float, Bounds(0, 0.5)] = setting(
        0.02, "Share of the prompts that is held out for evaluation, unless `held_out_name` is set."
    )
    held_out_max: Annotated[int, Bounds(1)] = setting(1000, "Most prompts that `held_out_fraction` holds out.")
    held_out_overlap: str = setting(
        "drop_train",
        "What happens to prompts of `held_out_name` that are trained on, too (up to case and white space): drop_train "
        "leaves them out of training, drop_held_out out of evaluation; refuse ends the run.",
        choices=OVERLAP,
    )
    scorer: list[str] | None = setting(
        None,
        "Scores a generated response: exact_match, gsm8k, boxed, last_number, choice, json, `regex:PATTERN`, or "
        "`module:function`, called with the prompt, the real and the generated text, returning a number, or named "
        "numbers. One, or several. Means over the held-out prompts are reported, as `score` or `score/NAME`.",
    )
    metric_for_best_iteration: str = setting(
        "nll",
        "Held-out figure by which the best iteration is chosen: nll, score (or score/NAME), score_greedy or win_rate.",
    )
    greater_is_better_iteration: bool | None = setting(
        None, "Whether more of `metric_for_best_iteration` is better. By default as is known of that figure."
    )
    min_improvement: Annotated[float, Bounds(0)] = setting(
        0.0, "By how much of that figure an iteration must be better than the best so far to take its place."
    )
    significant_improvement: bool = setting(
        False,
        "Whether the whole 95 % interval of the improvement, prompt by prompt, must lie above `min_improvement`.",
    )
    patience: Annotated[int | None, Bounds(1)] = setting(
        None, "Stop after this many iterations in a row without an improvement. By default a run never stops for that."
    )
    on_regression: str = setting(
        "continue",
        "What happens when an iteration is worse than the best so far, and surely (its whole 95 % interval): continue "
        "from it with a warning, stop, or fall_back: the next iteration starts from the best.",
        choices=["continue", "stop", "fall_back"],
    )
    fall_back_lr_scale: Annotated[float, Bounds(0, 1, low_open=True)] = setting(
        1.0, "Factor for the learning rate of all later iterations, each time the run falls back."
    )
    evaluate_greedy: bool = setting(False, "Also answer the held-out prompts greedily, and score that (score_greedy).")
    keep_iterations: Annotated[int | None, Bounds(1)] = setting(
        None, "How many models are kept besides the best one: the newest ones. By default all are kept."
    )
    degeneration_warn: dict[str, Any] | str | None = setting(
        None,
        "Thresholds beyond which the run warns of degenerate answers, by sign: empty, truncated, repetition, distinct, "
        "short, long, odd_characters, copies. Signs that are left out keep theirs; null switches one off.",
    )
    degeneration_stop: dict[str, Any] | str | None = setting(
        None, "Thresholds beyond which the run stops after an iteration, by the same signs. By default it goes on."
    )
    stop_at_plateau: bool = setting(
        True,
        "Stop when the policy no longer tells real from generated responses on held-out prompts: a win rate that is one "
        "half, within its 95 % interval. Too few prompts to say so stop nothing.",
    )
    baseline: str | None = setting(
        None,
        "`sft`: also train the start on the real responses alone, for as many gradient steps, and evaluate it at the same "
        "points.",
        choices=["sft"],
    )
    baseline_learning_rate: Annotated[float | None, Bounds(0)] = setting(
        None, "Learning rate of the baseline. By default that of the first iteration."
    )
    baseline_label_smoothing: Annotated[list[float], Bounds(0, 1)] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "Label smoothing of the baseline; each value is an arm of its own."},
    )
    accelerate_config: str | None = setting(
        None,
        "Configuration of accelerate, by name (`ddp`, `zero3`, ...) or file. Every phase is then launched with it, in "
        "processes of its own.",
    )
    push_generations: bool = setting(
        False,
        "With `push_to_hub`, or `spin-trl push`: also push the pairs of every iteration, as a dataset with a "
        "configuration an iteration.",
    )
    hub_dataset_id: str | None = setting(
        None, "Name of the dataset of pairs on the Hub. By default that of the model, with `-pairs`."
    )
    hub_license: str | None = setting(
        None,
        "Licence of what is pushed, as the Hub calls it (apache-2.0, ...). By default that of the base model, and for the "
        "pairs that of the source dataset, where the Hub knows them.",
    )
    hub_backup: bool = setting(
        False,
        "With `push_to_hub`: also keep the run directory itself, training checkpoints included, on the branch `run` of "
        "the model's repository. A run that starts without its directory goes on from there.",
    )
    smoke: bool = setting(False, "Play two iterations on eight rows, to see that all fits.")

    def __post_init__(self) -> None:
        if self.smoke:
            self.num_iterations = min(self.num_iterations, 2)
        if isinstance(self.scorer, str):
            self.scorer = [self.scorer]
        check_fields(self)
        for name in ("degeneration_warn", "degeneration_stop"):
            setattr(self, name, thresholds(name, getattr(self, name), list(SIGNS)))
        self.per_iteration = check_per_iteration(as_mapping("per_iteration", self.per_iteration), self)
        if self.greater_is_better_iteration is None:
            self.greater_is_better_iteration = figure_of(self.metric_for_best_iteration).greater_is_better
        if is_score(self.metric_for_best_iteration) and self.scorer is None:
            raise RecipeError(
                f"`metric_for_best_iteration` is {self.metric_for_best_iteration!r}, which needs a `scorer`."
            )
        by_prompt = self.metric_for_best_iteration == "nll" or is_score(self.metric_for_best_iteration)
        for name, off in (("significant_improvement", False), ("on_regression", "continue")):
            if getattr(self, name) != off and not by_prompt:
                raise RecipeError(
                    f"`{name}` compares prompt by prompt, which {self.metric_for_best_iteration!r} "
                    "(`metric_for_best_iteration`) can't be. Choose nll or a score, or leave it out."
                )
        if self.metric_for_best_iteration.partition("/")[0] == SCORE_GREEDY:
            self.evaluate_greedy = True


def check_per_iteration(lists: dict[str, Any] | None, play: SelfPlayConfig) -> dict[str, list[float]]:
    """Per-iteration lists as numbers, each as long as the run, or a clear error.

    Args:
        lists: by setting, the values of all iterations, or None.
        play: the loop's settings; a smoke run takes the first values of longer lists.

    Raises:
        RecipeError: the setting can't differ by iteration, a value is no number, or the length does not fit.
    """
    checked: dict[str, list[float]] = {}
    for name, values in (lists or {}).items():
        if name not in PER_ITERATION:
            raise RecipeError(
                f"`{name}` can't differ by iteration; a list is possible for {', '.join(PER_ITERATION)}."
            )
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RecipeError(f"`{name}` is {shown(values)}; expected a list with one number an iteration.")
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError, OverflowError):
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise RecipeError(f"`{name}` is {shown(list(values))}; expected finite numbers.")
        if play.smoke:
            numbers = numbers[: play.num_iterations]
        if len(numbers) != play.num_iterations:
            raise RecipeError(
                f"`{name}` has {counted(len(numbers), 'value')} for {counted(play.num_iterations, 'iteration')}: {numbers}. "
                "Give one number for all iterations, or one for each."
            )
        checked[name] = numbers
    return checked


def iteration_settings(play: SelfPlayConfig, iteration: int) -> dict[str, float]:
    """The settings that `per_iteration` gives iteration `iteration` (0-based), by name."""
    return {
        name: values[iteration] for name, values in (as_mapping("per_iteration", play.per_iteration) or {}).items()
    }
