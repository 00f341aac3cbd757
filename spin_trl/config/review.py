"""Settings of human review: which iterations people compare, on which answers, and what their votes decide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ..counts import counted
from ..errors import RecipeError, nearest
from ..objectives.fields import setting
from .checks import Bounds, shown

PREVIOUS, START_MODEL, REAL_RESPONSE = COMPARED_WITH = ("previous", "start", "real")
"""Values of `review_pairs`: what an iteration's answer is compared with."""

SAMPLED, GREEDY = ANSWER_MODES = ("sampled", "greedy")
"""Values of `review_answers`: how the compared answers were decoded."""

WAIT, WARN, OFF = GATES = ("wait", "warn", "off")
"""Values of `review_gate`."""

LAST_ITERATION = "last"
"""Value of `human_review`: the iteration with which the run ends."""

_EVERY = re.compile(r"every (\d+)")


@dataclass
class ReviewSettings:
    """The fields of [`SelfPlayConfig`] on human review.

    Args:
        human_review: Iterations whose answers people compare: `every N` (`every 1`: all), a list such as [0, 2], or `last`.
            After evaluation the run then writes `review.html` to the iteration's folder. By default, none.
        review_prompts: With `human_review`, the number of held-out prompts for each of `review_pairs`: random, of all
            lengths, and the same for all iterations. No prompt is used for two comparisons.
        review_pairs: With `human_review`, what an iteration's answer is compared with: that of the previous model (its
            opponent), that of the start, or the real response; one or several.
        review_answers: With `human_review`, which of the stored answers are compared: sampled, or greedy.
        review_gate: With `human_review`, whether the run ends until there are votes (wait), and then stops or falls back, as
            `on_regression` says, if people find the iteration worse; only warns (warn); or does neither (off).
        review_min_win_rate: With `human_review`, the win rate that an iteration should reach, where ties count half. It is
            found worse only if the whole 95 % interval lies below, from at least 20 pairs with votes.
    """

    human_review: list[str] | None = setting(
        None,
        "Iterations whose answers people compare: `every N` (`every 1`: all), a list such as [0, 2], or `last`. After "
        "evaluation the run then writes `review.html` to the iteration's folder. By default, none.",
    )
    review_prompts: Annotated[int, Bounds(1, 1000)] = setting(
        40,
        "With `human_review`, the number of held-out prompts for each of `review_pairs`: random, of all lengths, and the "
        "same for all iterations. No prompt is used for two comparisons.",
    )
    review_pairs: list[str] | None = setting(
        None,
        "With `human_review`, what an iteration's answer is compared with: that of the previous model (its opponent), that "
        "of the start, or the real response; one or several. By default, previous.",
        choices=COMPARED_WITH,
    )
    review_answers: str = setting(
        SAMPLED,
        "With `human_review`, which of the stored answers are compared: sampled, or greedy.",
        choices=ANSWER_MODES,
    )
    review_gate: str = setting(
        WARN,
        "With `human_review`, whether the run ends until there are votes (wait), and then stops or falls back, as "
        "`on_regression` says, if people find the iteration worse; only warns (warn); or does neither (off).",
        choices=GATES,
    )
    review_min_win_rate: Annotated[float, Bounds(0, 1, low_open=True, high_open=True)] = setting(
        0.4,
        "With `human_review`, the win rate that an iteration should reach, where ties count half. It is found worse only if "
        "the whole 95 % interval lies below, from at least 20 pairs with votes.",
    )

    @property
    def reviewed_against(self) -> list[str]:
        """What an iteration's answers are compared with."""
        return self.review_pairs or [PREVIOUS]


def as_list_of_texts(value: Any) -> Any:
    """Return a text or a number as a list of one text, and whole numbers in a list as texts; other values unchanged."""
    if isinstance(value, str) or _is_iteration(value):
        return [str(value)]
    if isinstance(value, Sequence):
        return [str(one) if _is_iteration(one) else one for one in value]
    return value


def _is_iteration(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_review(settings: ReviewSettings, num_iterations: int, *, smoke: bool) -> None:
    """Check which iterations are reviewed, and that the settings fit together.

    Args:
        settings: settings whose fields have been checked one by one.
        num_iterations: number of iterations of the run.
        smoke: whether it is a smoke run, which may have fewer iterations than its recipe says.

    Raises:
        RecipeError: if `human_review` can't be read, names an iteration that the run doesn't have or reviews none, if other
            settings need `human_review`, or if votes could decide nothing.
    """
    if settings.human_review is None:
        defaults = ReviewSettings()
        for name in ("review_prompts", "review_pairs", "review_answers", "review_gate", "review_min_win_rate"):
            if getattr(settings, name) != getattr(defaults, name):
                raise RecipeError(f"`{name}` is used only with `human_review`: set that, or leave `{name}` out.")
        return
    numbers = _listed_iterations(settings.human_review)
    if not smoke and (late := [number for number in numbers if number >= num_iterations]):
        raise RecipeError(
            f"`human_review` names iteration {late[0]}, but the run's iterations are 0 to {num_iterations - 1}."
        )
    is_none = not any(is_reviewed(settings, number, is_last=True) for number in range(num_iterations))
    if not smoke and is_none:
        raise RecipeError(
            f"`human_review: {' '.join(settings.human_review)}` reviews nothing, since the run has "
            f"{counted(num_iterations, 'iteration')}. Set `{LAST_ITERATION}`, or a smaller number."
        )
    against = settings.reviewed_against
    if len(set(against)) < len(against):
        raise RecipeError(f"`review_pairs` names something twice: {', '.join(against)}.")
    if settings.review_gate == WAIT and against == [REAL_RESPONSE]:
        raise RecipeError(
            "`review_gate: wait` needs `previous` or `start` in `review_pairs`: that people prefer the real response to the "
            "model's is no reason to stop."
        )


def _listed_iterations(values: Any) -> list[int]:
    """Return the numbers of iterations that `human_review` lists; none if it is `last` or `every N`.

    Raises:
        RecipeError: if it can't be read.
    """
    listed = values if isinstance(values, list) else [values]
    said = " ".join(map(str, listed))
    if said == LAST_ITERATION or ((every := _EVERY.fullmatch(said)) is not None and int(every[1]) > 0):
        return []
    if not listed or not all(isinstance(one, str) and one.isascii() and one.isdecimal() for one in listed):
        word = next((str(one) for one in listed if not str(one).isdecimal()), "")
        near = nearest(word, [LAST_ITERATION, "every 1"]) if word else "."
        raise RecipeError(
            f"`human_review` is {shown(said)}{near} Expected `every N` with N from 1, `last`, or a list of iterations "
            "counted from 0, such as [0, 2]."
        )
    numbers = [int(one) for one in listed]
    if len(set(numbers)) < len(numbers):
        raise RecipeError(f"`human_review` names an iteration twice: {said}.")
    return numbers


def is_reviewed(settings: ReviewSettings, iteration: int, *, is_last: bool) -> bool:
    """Return whether people compare an iteration's answers.

    Args:
        settings: checked settings.
        iteration: number of the iteration (0-based).
        is_last: whether the run ends with it.
    """
    if settings.human_review is None:
        return False
    said = " ".join(settings.human_review)
    if said == LAST_ITERATION:
        return is_last
    if (every := _EVERY.fullmatch(said)) is not None:
        return (iteration + 1) % int(every[1]) == 0
    return iteration in map(int, settings.human_review)
