"""What judges the models of a run, and what nothing judges: said before the run starts, while that can be changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config.checks import as_mapping
from ..config.loop import SelfPlayConfig
from ..config.rubric import RUBRIC
from ..counts import agreeing, counted
from ..evaluation.degeneration import SIGNS
from ..evaluation.figures import is_score
from ..evaluation.scoring import Scorer, SeveralScorers

LONGEST_SCORER = 40
"""Maximum number of characters of a scorer's name, which may be a pattern."""


@dataclass(frozen=True)
class Judging:
    """What judges the models of a run.

    Attributes:
        play: settings of the loop.
        held_out: number of held-out prompts.
        is_tested: whether there is a test set.
        is_retained: whether there is a retention set.
        scorers: names of the scorers.
    """

    play: SelfPlayConfig
    held_out: int
    is_tested: bool
    is_retained: bool
    scorers: tuple[str, ...] = ()


def judged(judging: Judging) -> list[str]:
    """Return lines for the user: first what judges the models, then a line for each thing that nothing judges.

    Each of these names the setting that would change it.
    """
    if judging.held_out == 0:
        return [
            "Nothing judges the models: no prompts are held out, so no iteration is compared with another "
            "(`held_out_fraction`, `held_out_name`)."
        ]
    return [_by_what(judging), *filter(None, (unjudged(judging) for unjudged in _UNJUDGED))]


def names_of_scorer(scorer: Scorer | None, names: list[str] | None) -> tuple[str, ...]:
    """Return the names of a run's scorers: those in its settings, or else that of the function passed from Python.

    Args:
        scorer: the scorer, or None.
        names: the setting `scorer`.
    """
    if names or scorer is None:
        return tuple(names or ())
    if isinstance(scorer, SeveralScorers):
        return tuple(scorer.scorers)
    return (getattr(scorer, "__name__", type(scorer).__name__),)


def _by_what(judging: Judging) -> str:
    play, by = judging.play, ["NLL"]
    if judging.scorers:
        names = ", ".join(_shown_name(name, play) for name in judging.scorers)
        on = "sampled and greedy answers" if play.evaluate_greedy else "sampled answers only (`evaluate_greedy`)"
        by.append(f"the {agreeing(len(judging.scorers), 'scorer')} {names}, on {on}")
    also = ["a test set"] * judging.is_tested + ["a retention set"] * judging.is_retained
    also += ["people's votes"] * (play.human_review is not None)
    return (
        f"Judged on {counted(judging.held_out, 'held-out prompt')} by {' and '.join(by)}; "
        f"{play.metric_for_best_iteration} chooses the best iteration (`metric_for_best_iteration`)."
        + (f" Also: {', '.join(also)}." if also else "")
    )


def _no_scorer(judging: Judging) -> str | None:
    if judging.scorers:
        return None
    return "Not judged: whether answers are right or as you want them (`scorer`; `scorer: rubric` needs no right answers)."


def _blind_metric(judging: Judging) -> str | None:
    play = judging.play
    stops = as_mapping("degeneration_stop", play.degeneration_stop) or {}
    if any(limit is not None for limit in stops.values()):
        return None
    metric = play.metric_for_best_iteration
    if is_score(metric) or metric in {sign.figure for sign in SIGNS.values()}:
        return "Degenerate answers only cause warnings (`degeneration_stop`)."
    return (
        f"`metric_for_best_iteration: {metric}` does not judge the model's own answers: if they degenerate, the model can "
        "still be the best. Choose a score, or set `degeneration_stop`; otherwise there are only warnings."
    )


def _no_test_set(judging: Judging) -> str | None:
    return (
        None if judging.is_tested else "No test set: the figures are also used to choose the best model (`test_name`)."
    )


def _no_retention(judging: Judging) -> str | None:
    if judging.is_retained:
        return None
    return "No retention set: what the models forget is not measured (`retain_name`, `retain_tasks`)."


def _no_people(judging: Judging) -> str | None:
    if judging.play.human_review is not None:
        return None
    return "Nobody looks at the answers (`human_review`)."


_UNJUDGED: tuple[Callable[[Judging], str | None], ...] = (
    _no_scorer,
    _blind_metric,
    _no_test_set,
    _no_retention,
    _no_people,
)
"""Functions that return a line on what nothing judges, or None if something does, in the order of the lines.

Something else that can judge a run adds its function here."""


def _shown_name(name: str, play: SelfPlayConfig) -> str:
    if name == RUBRIC and play.criteria is not None:
        return f"{name} ({counted(len(play.criteria.criteria), 'criterion', 'criteria')})"
    return name if len(name) <= LONGEST_SCORER else f"{name[:LONGEST_SCORER]}…"
