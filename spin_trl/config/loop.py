"""Settings of the loop: a flat dataclass in TRL's style, like the settings of an iteration."""

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
from .dpo import check_dpo_args, check_origins
from .engines import EngineSettings
from .judge import JudgeSettings, names_judge
from .review import GREEDY, WAIT, WARN, ReviewSettings, as_list_of_texts, check_review
from .rubric import RubricSettings, check_has_rubric, rubric_content
from .server import ServerSettings
from .sft import SEEN_OR_NOT, check_sft_args
from .traits import EQUAL, EQUAL_STEPS, GIVEN, SFT_FIRST

PER_ITERATION = ("learning_rate", "beta", "num_train_epochs", "temperature")
"""Settings that may differ by iteration: one number, or a list with one number per iteration."""

SMOKE_ROWS = 8
"""Number of rows in a smoke run."""


@dataclass
class SelfPlayConfig(EngineSettings, ServerSettings, RubricSettings, JudgeSettings, ReviewSettings):
    """Settings of the loop: how many iterations to play, where to keep them, and how to evaluate and compare them.

    Args:
        num_iterations: Number of iterations to play. They are numbered from 0, as in the papers.
        start: θ_0: the given model, or `sft`, which first trains it with SFT on the run's own rows and starts from the
            result. Without a model, the start is built from the dataset, as `start_*` says.
        sft_args: Settings of TRL's `SFTConfig` for `start: sft`; in a recipe, `sft_X` sets `X`. Settings that are left out
            have the values of an iteration, except learning rate, schedule and length, which have SFTConfig's defaults.
        sft_share: Share of the prompts that `start: sft` trains on, chosen at random by `seed`.
        sft_use_peft: Whether `start: sft` trains an adapter. By default, the same as `use_peft`. An adapter is merged into
            its base model if self-play trains all weights.
        sft_patience: Stop SFT after this many measurements in a row without a lower held-out NLL. By default, it trains for
            its whole length; the start is the best point either way.
        self_play_prompts: Prompts that self-play uses: all, or only those that SFT has seen, or has not seen.
        then_dpo: Models to train further with DPO on the pairs of `dpo_name`, after the last iteration: `best`, `start`,
            `last`, `base` (with `start: sft`) or `iteration-N`; one or several. Each becomes a model of the run.
        dpo_args: Settings of TRL's `DPOConfig` for `then_dpo`; in a recipe, `dpo_X` sets `X`. Settings that are left out
            have the values of an iteration, except loss, learning rate, schedule and length, which have DPOConfig's
            defaults.
        dpo_max: Maximum number of pairs of `dpo_name` that are trained on, drawn with a fixed seed.
        identical_stop: Share of generations that equal the real response, token by token, above which an iteration is not
            trained and the run ends. 1 never ends it.
        run_dir: Directory that holds everything the run writes. By default, `output_dir` if the recipe sets it, else
            runs/NAME, where NAME is the name of the recipe.
        existing_run: What to do if the run directory already holds a run: continue it, fail, or overwrite it (which
            deletes what that run has written, and nothing else).
        per_iteration: Lists with one value per iteration, for learning_rate, beta, num_train_epochs or temperature. In a
            recipe, write the list in place of the number.
        history: Number of earlier iterations whose generations are trained on again. SPIN's paper uses 1.
        lora_opponent: With LoRA, the opponent of a later iteration: a frozen copy of the adapter, or the base model with
            the adapter merged into it.
        held_out_fraction: Share of the prompts to hold out for evaluation, unless `held_out_name` is set.
        held_out_max: Maximum number of prompts that `held_out_fraction` holds out.
        held_out_overlap: What to do with prompts of `held_out_name` that are also in the training data (ignoring case
            and white space): drop_train removes them from training, drop_held_out removes them from evaluation, and
            refuse ends the run. The same holds for `test_name` and `retain_name`; but with drop_train, prompts of
            `retain_name`, and of a `test_name` that is added after training has begun, are removed from that data instead.
        retain_max: Maximum number of rows of `retain_name` that are measured. They are drawn with a fixed seed, so every
            model and every run is measured on the same rows.
        retain_scorer: Scorer of answers to the prompts of `retain_name`, named like `scorer`. The models then also answer
            these prompts at every stage. By default, only the likelihood of the responses is measured.
        retain_tasks: Tasks of lm-evaluation-harness on which every model is measured, with at most `retain_max` questions
            each, in addition to `retain_name` or in its place.
        scorer: Scorer of the generated responses: exact_match, gsm8k, boxed, last_number, equation, choice, json, rubric,
            python_tests, judge, `regex:PATTERN`, or `module:function`; one or several. A function is called with the prompt,
            the real and the generated text, and with columns of the row that its further parameters name; it returns a
            number or several named numbers. Means over the held-out prompts are reported as `score` or `score/NAME`.
        allow_generated_code: Allow the scorer python_tests to run code that the model writes. It runs isolated from this
            machine, or not at all.
        allow_unisolated_code: With `allow_generated_code`, also run code where it can't be isolated. Such code can read
            and delete your files: for a container or virtual machine that you can afford to lose.
        metric_for_best_iteration: Held-out metric that decides which iteration is the best: nll, score (or score/NAME),
            score_greedy or win_rate.
        greater_is_better_iteration: Whether a greater `metric_for_best_iteration` is better. By default, this follows
            from the metric.
        min_improvement: By how much an iteration must improve `metric_for_best_iteration` over the best one so far to
            replace it.
        significant_improvement: Whether the whole 95 % interval of the improvement, measured prompt by prompt, must lie
            above `min_improvement`.
        patience: Stop after this many iterations in a row without an improvement. By default, a run never stops for this
            reason.
        on_regression: What to do when an iteration is significantly worse than the best one so far (judged by its whole
            95 % interval): continue from it with a warning, stop, or fall_back, which starts the next iteration from the
            best one.
        fall_back_lr_scale: Factor that multiplies the learning rate of all later iterations each time the run falls
            back.
        evaluate_greedy: Also answer the held-out prompts greedily, and score those answers (score_greedy).
        keep_iterations: Number of models to keep in addition to the best one: the newest ones. By default, all models
            are kept.
        degeneration_warn: Thresholds beyond which the run warns of degenerate answers, by sign: empty, truncated,
            repetition, distinct, short, long, odd_characters, copies. A sign that is left out keeps its default
            threshold; null switches it off.
        degeneration_stop: Thresholds beyond which the run stops after an iteration, by the same signs as in
            `degeneration_warn`. By default, the run continues.
        stop_at_plateau: Stop when the policy no longer tells real from generated responses on held-out prompts, i.e.
            when the 95 % interval of its win rate contains one half. With too few prompts to tell, the run continues.
        baseline: Supervised baselines to compare with, one or several: `sft` also trains the start on the real responses
            alone, for as long as self-play, and evaluates it at the same points; `sft-dft` does so with DFT's loss;
            `sft-best`, with `start: sft`, trains the base for as long as SFT and self-play together, and keeps its best
            point.
        baseline_equal: What the baselines have in common with self-play: the number of gradient steps, or the compute, i.e.
            3 x tokens trained on + tokens scored + tokens prefilled + tokens sampled, to the nearest step.
        baseline_learning_rate: Learning rate of the baseline. By default, that of the first iteration, or of `start: sft`.
        baseline_label_smoothing: Label smoothing of the baseline `sft`; each value is a separate arm.
        accelerate_config: Configuration of accelerate: a shipped one by name (`ddp`, `zero3`, ...), or a file. Every
            phase is then launched with it, in separate processes.
        push_generations: With `push_to_hub` or `spin-trl push`, also push the pairs of every iteration, as a dataset
            with one configuration per iteration.
        hub_dataset_id: Name of the dataset of pairs on the Hub. By default, the model's name followed by `-pairs`.
        hub_license: Licence of the pushed model and pairs, as the Hub names it (apache-2.0, ...). By default, the model
            gets the licence of the base model and the pairs that of the source dataset, where the Hub knows them.
        hub_backup: With `push_to_hub`, also back up the run directory, including training checkpoints, to the branch
            `run` of the model's repository. A run that starts without its directory resumes from there.
        smoke: Play two iterations on eight rows, to check that everything fits together.

    Raises:
        RecipeError: if a value is out of range, or a per-iteration list does not match `num_iterations`.

    Example:

    ```python
    play = SelfPlayConfig(num_iterations=3, run_dir="runs/mine", scorer="exact_match")
    ```
    """

    num_iterations: Annotated[int, Bounds(1, 10_000)] = setting(
        3, "Number of iterations to play. They are numbered from 0, as in the papers."
    )
    start: str = setting(
        GIVEN,
        "θ_0: the given model, or `sft`, which first trains it with SFT on the run's own rows and starts from the result. "
        "Without a model, the start is built from the dataset, as `start_*` says.",
        choices=[GIVEN, SFT_FIRST],
    )
    sft_args: dict[str, Any] | str | None = setting(
        None,
        "Settings of TRL's `SFTConfig` for `start: sft`; in a recipe, `sft_X` sets `X`. Settings that are left out have "
        "the values of an iteration, except learning rate, schedule and length, which have SFTConfig's defaults.",
    )
    sft_share: Annotated[float, Bounds(0, 1, low_open=True)] = setting(
        1.0, "Share of the prompts that `start: sft` trains on, chosen at random by `seed`."
    )
    sft_use_peft: bool | None = setting(
        None,
        "Whether `start: sft` trains an adapter. By default, the same as `use_peft`. An adapter is merged into its base "
        "model if self-play trains all weights.",
    )
    sft_patience: Annotated[int | None, Bounds(1)] = setting(
        None,
        "Stop SFT after this many measurements in a row without a lower held-out NLL. By default, it trains for its "
        "whole length; the start is the best point either way.",
    )
    self_play_prompts: str = setting(
        SEEN_OR_NOT[0],
        "Prompts that self-play uses: all, or only those that SFT has seen, or has not seen.",
        choices=SEEN_OR_NOT,
    )
    then_dpo: list[str] | None = setting(
        None,
        "Models to train further with DPO on the pairs of `dpo_name`, after the last iteration: `best`, `start`, `last`, "
        "`base` (with `start: sft`) or `iteration-N`; one or several. Each becomes a model of the run.",
    )
    dpo_args: dict[str, Any] | str | None = setting(
        None,
        "Settings of TRL's `DPOConfig` for `then_dpo`; in a recipe, `dpo_X` sets `X`. Settings that are left out have the "
        "values of an iteration, except loss, learning rate, schedule and length, which have DPOConfig's defaults.",
    )
    dpo_max: Annotated[int | None, Bounds(1)] = setting(
        None, "Maximum number of pairs of `dpo_name` that are trained on, drawn with a fixed seed."
    )
    identical_stop: Annotated[float, Bounds(0, 1)] = setting(
        0.95,
        "Share of generations that equal the real response, token by token, above which an iteration is not trained "
        "and the run ends. 1 never ends it.",
    )
    run_dir: str | None = setting(
        None,
        "Directory that holds everything the run writes. By default, `output_dir` if the recipe sets it, else "
        "runs/NAME, where NAME is the name of the recipe.",
    )
    existing_run: str = setting(
        "continue",
        "What to do if the run directory already holds a run: continue it, fail, or overwrite it (which deletes "
        "what that run has written, and nothing else).",
        choices=["continue", "fail", "overwrite"],
    )
    per_iteration: dict[str, Any] | str | None = setting(
        None,
        "Lists with one value per iteration, for learning_rate, beta, num_train_epochs or temperature. In a "
        "recipe, write the list in place of the number.",
    )
    history: Annotated[int, Bounds(0)] = setting(
        0, "Number of earlier iterations whose generations are trained on again. SPIN's paper uses 1."
    )
    lora_opponent: str = setting(
        "adapter",
        "With LoRA, the opponent of a later iteration: a frozen copy of the adapter, or the base model with the "
        "adapter merged into it.",
        choices=["adapter", "merge"],
    )
    held_out_fraction: Annotated[float, Bounds(0, 0.5)] = setting(
        0.02, "Share of the prompts to hold out for evaluation, unless `held_out_name` is set."
    )
    held_out_max: Annotated[int, Bounds(1)] = setting(
        1000, "Maximum number of prompts that `held_out_fraction` holds out."
    )
    held_out_overlap: str = setting(
        "drop_train",
        "What to do with prompts of `held_out_name` that are also in the training data (ignoring case and white "
        "space): drop_train removes them from training, drop_held_out removes them from evaluation, and refuse "
        "ends the run. The same holds for `test_name` and `retain_name`; but with drop_train, prompts of "
        "`retain_name`, and of a `test_name` that is added after training has begun, are removed from that data instead.",
        choices=OVERLAP,
    )
    retain_max: Annotated[int, Bounds(1)] = setting(
        200,
        "Maximum number of rows of `retain_name` that are measured. They are drawn with a fixed seed, so every model and "
        "every run is measured on the same rows.",
    )
    retain_scorer: list[str] | None = setting(
        None,
        "Scorer of answers to the prompts of `retain_name`, named like `scorer`. The models then also answer these prompts "
        "at every stage. By default, only the likelihood of the responses is measured.",
    )
    retain_tasks: list[str] | None = setting(
        None,
        "Tasks of lm-evaluation-harness on which every model is measured, with at most `retain_max` questions each, in "
        "addition to `retain_name` or in its place.",
    )
    scorer: list[str] | None = setting(
        None,
        "Scorer of the generated responses: exact_match, gsm8k, boxed, last_number, equation, choice, json, rubric, "
        "python_tests, judge, `regex:PATTERN`, or `module:function`; one or several. A function is called with the prompt, "
        "the real and the generated text, and with columns of the row that its further parameters name; it returns a number "
        "or several named numbers. Means over the held-out prompts are reported as `score` or `score/NAME`.",
    )
    allow_generated_code: bool = setting(
        False,
        "Allow the scorer python_tests to run code that the model writes. It runs isolated from this machine, or not at "
        "all.",
    )
    allow_unisolated_code: bool = setting(
        False,
        "With `allow_generated_code`, also run code where it can't be isolated. Such code can read and delete your files: "
        "for a container or virtual machine that you can afford to lose.",
    )
    metric_for_best_iteration: str = setting(
        "nll",
        "Held-out metric that decides which iteration is the best: nll, score (or score/NAME), score_greedy or "
        "win_rate.",
    )
    greater_is_better_iteration: bool | None = setting(
        None, "Whether a greater `metric_for_best_iteration` is better. By default, this follows from the metric."
    )
    min_improvement: Annotated[float, Bounds(0)] = setting(
        0.0,
        "By how much an iteration must improve `metric_for_best_iteration` over the best one so far to replace it.",
    )
    significant_improvement: bool = setting(
        False,
        "Whether the whole 95 % interval of the improvement, measured prompt by prompt, must lie above "
        "`min_improvement`.",
    )
    patience: Annotated[int | None, Bounds(1)] = setting(
        None,
        "Stop after this many iterations in a row without an improvement. By default, a run never stops for this "
        "reason.",
    )
    on_regression: str = setting(
        "continue",
        "What to do when an iteration is significantly worse than the best one so far (judged by its whole 95 % "
        "interval): continue from it with a warning, stop, or fall_back, which starts the next iteration from the "
        "best one.",
        choices=["continue", "stop", "fall_back"],
    )
    fall_back_lr_scale: Annotated[float, Bounds(0, 1, low_open=True)] = setting(
        1.0, "Factor that multiplies the learning rate of all later iterations each time the run falls back."
    )
    evaluate_greedy: bool = setting(
        False, "Also answer the held-out prompts greedily, and score those answers (score_greedy)."
    )
    keep_iterations: Annotated[int | None, Bounds(1)] = setting(
        None, "Number of models to keep in addition to the best one: the newest ones. By default, all models are kept."
    )
    degeneration_warn: dict[str, Any] | str | None = setting(
        None,
        "Thresholds beyond which the run warns of degenerate answers, by sign: empty, truncated, repetition, "
        "distinct, short, long, odd_characters, copies. A sign that is left out keeps its default threshold; null "
        "switches it off.",
    )
    degeneration_stop: dict[str, Any] | str | None = setting(
        None,
        "Thresholds beyond which the run stops after an iteration, by the same signs as in `degeneration_warn`. By "
        "default, the run continues.",
    )
    stop_at_plateau: bool = setting(
        True,
        "Stop when the policy no longer tells real from generated responses on held-out prompts, i.e. when the "
        "95 % interval of its win rate contains one half. With too few prompts to tell, the run continues.",
    )
    baseline: list[str] | None = setting(
        None,
        "Supervised baselines to compare with, one or several: `sft` also trains the start on the real responses alone, "
        "for as long as self-play, and evaluates it at the same points; `sft-dft` does so with DFT's loss; `sft-best`, with "
        "`start: sft`, trains the base for as long as SFT and self-play together, and keeps its best point.",
        choices=["sft", "sft-dft", "sft-best"],
    )
    baseline_equal: str = setting(
        EQUAL_STEPS,
        "What the baselines have in common with self-play: the number of gradient steps, or the compute, i.e. 3 x tokens "
        "trained on + tokens scored + tokens prefilled + tokens sampled, to the nearest step.",
        choices=EQUAL,
    )
    baseline_learning_rate: Annotated[float | None, Bounds(0)] = setting(
        None, "Learning rate of the baseline. By default, that of the first iteration, or of `start: sft`."
    )
    baseline_label_smoothing: Annotated[list[float], Bounds(0, 1)] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "Label smoothing of the baseline `sft`; each value is a separate arm."},
    )
    accelerate_config: str | None = setting(
        None,
        "Configuration of accelerate: a shipped one by name (`ddp`, `zero3`, ...), or a file. Every phase is then "
        "launched with it, in separate processes.",
    )
    push_generations: bool = setting(
        False,
        "With `push_to_hub` or `spin-trl push`, also push the pairs of every iteration, as a dataset with one "
        "configuration per iteration.",
    )
    hub_dataset_id: str | None = setting(
        None, "Name of the dataset of pairs on the Hub. By default, the model's name followed by `-pairs`."
    )
    hub_license: str | None = setting(
        None,
        "Licence of the pushed model and pairs, as the Hub names it (apache-2.0, ...). By default, the model gets "
        "the licence of the base model and the pairs that of the source dataset, where the Hub knows them.",
    )
    hub_backup: bool = setting(
        False,
        "With `push_to_hub`, also back up the run directory, including training checkpoints, to the branch `run` "
        "of the model's repository. A run that starts without its directory resumes from there.",
    )
    smoke: bool = setting(False, "Play two iterations on eight rows, to check that everything fits together.")

    def __post_init__(self) -> None:
        if self.smoke:
            self.num_iterations = min(self.num_iterations, 2)
        for name in ("scorer", "retain_scorer", "retain_tasks", "baseline", "then_dpo", "review_pairs"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        self.human_review = as_list_of_texts(self.human_review)
        check_fields(self)
        for name in ("degeneration_warn", "degeneration_stop"):
            setattr(self, name, thresholds(name, getattr(self, name), list(SIGNS)))
        self.rubric = rubric_content(self.rubric)
        check_has_rubric(self.rubric, scorer=self.scorer, retain_scorer=self.retain_scorer)
        self.sft_args = check_sft_args(self.sft_args) or None
        self.dpo_args, self.then_dpo = check_dpo_args(self.dpo_args) or None, self.then_dpo or None
        check_origins(self.then_dpo or [])
        self.per_iteration = check_per_iteration(as_mapping("per_iteration", self.per_iteration), self)
        if self.greater_is_better_iteration is None:
            self.greater_is_better_iteration = figure_of(self.metric_for_best_iteration).greater_is_better
        if is_score(self.metric_for_best_iteration) and self.scorer is None:
            raise RecipeError(
                f"`metric_for_best_iteration` is {self.metric_for_best_iteration!r}, which needs a `scorer`."
            )
        self.check_judge(self.scorer, self.retain_scorer, self.metric_for_best_iteration)
        if self.allow_unisolated_code and not self.allow_generated_code:
            raise RecipeError("`allow_unisolated_code` has no effect without `allow_generated_code: true`.")
        by_prompt = self.metric_for_best_iteration == "nll" or is_score(self.metric_for_best_iteration)
        for name, off in (("significant_improvement", False), ("on_regression", "continue")):
            if getattr(self, name) != off and not by_prompt:
                raise RecipeError(
                    f"`{name}` compares iterations prompt by prompt, which is not possible with "
                    f"`metric_for_best_iteration: {self.metric_for_best_iteration}`. Set that to nll or a score, or leave "
                    f"`{name}` out."
                )
        check_review(self, self.num_iterations, smoke=self.smoke)
        if self.judge_reviews and self.human_review is None:
            raise RecipeError(
                "`judge_reviews` compares the pairs of a review page: set `human_review`, or leave it out."
            )
        if self.smoke and self.review_gate == WAIT:
            self.review_gate = WARN  # nobody looks at the answers of a smoke run
        reads_greedy = self.human_review is not None and self.review_answers == GREEDY
        if reads_greedy or self.metric_for_best_iteration.partition("/")[0] == SCORE_GREEDY:
            self.evaluate_greedy = True

    @property
    def most_pairs(self) -> int | None:
        """The largest number of preference pairs that DPO on top trains on; None for all."""
        return SMOKE_ROWS if self.smoke else self.dpo_max


def check_per_iteration(lists: dict[str, Any] | None, play: SelfPlayConfig) -> dict[str, list[float]]:
    """Check per-iteration lists and return them as lists of numbers with one number per iteration.

    Args:
        lists: values of all iterations by setting, or None.
        play: settings of the loop; a smoke run uses the first values of longer lists.

    Raises:
        RecipeError: if a setting can't differ by iteration, a value is not a number, or a list has the wrong length.
    """
    checked: dict[str, list[float]] = {}
    for name, values in (lists or {}).items():
        if name not in PER_ITERATION:
            raise RecipeError(f"`{name}` can't differ by iteration; only {', '.join(PER_ITERATION)} can be lists.")
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RecipeError(f"`{name}` is {shown(values)}; expected a list with one number per iteration.")
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
                "Give one number for all iterations, or one per iteration."
            )
        checked[name] = numbers
    return checked


def iteration_settings(play: SelfPlayConfig, iteration: int) -> dict[str, float]:
    """Return the values that `per_iteration` sets for iteration `iteration` (0-based), by setting."""
    return {
        name: values[iteration] for name, values in (as_mapping("per_iteration", play.per_iteration) or {}).items()
    }


def asks_judge(play: SelfPlayConfig) -> bool:
    """Return whether a run with these settings asks a judge: to score answers, or to compare those of a review page."""
    return names_judge(play.scorer, play.retain_scorer) or play.judge_reviews
