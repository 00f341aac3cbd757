"""The decision after an iteration: whether the run goes on.

It depends on what lies in the run directory and on the settings alone, so a run that is continued decides as it did before,
unless the settings have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluation.degeneration import findings
from ..files import read_json
from .directory import START, iteration_stage
from .run import Run

WIDEST = 0.1
"""How far the interval of a win rate may reach to either side, for one half to be a plateau and not ignorance: about what a
hundred prompts give."""


FEW = 50
"""Held-out prompts below which nothing is said of a plateau: two ties would look like one."""


@dataclass(frozen=True)
class Verdict:
    """What was decided after an iteration.

    Attributes:
        warnings: for the user, each a line.
        stopped: why the run ends here, or None: it goes on.
    """

    warnings: tuple[str, ...]
    stopped: str | None


def judge(run: Run, iteration: int) -> Verdict:
    """Judge an iteration that has been evaluated, and before the first one the start's answers, too.

    Args:
        run: the run.
        iteration: 0-based.
    """
    play = run.play
    assert isinstance(play.degeneration_warn, dict)
    assert isinstance(play.degeneration_stop, dict)
    warn, stop = play.degeneration_warn, play.degeneration_stop
    warnings, reasons = [], []
    for stage in (START, iteration_stage(0)) if iteration == 0 else (iteration_stage(iteration),):
        for finding in findings(read_json(run.directory.metrics(stage)) or {}, warn, stop):
            warnings.append(f"{stage}: {finding.message}")
            if finding.stops and stage != START:
                reasons.append(f"{finding.message} (`degeneration_stop` {finding.name}: {stop[finding.name]:g})")
    over = (
        plateau(read_json(run.directory.metrics(iteration_stage(iteration))) or {}) if play.stop_at_plateau else None
    )
    reasons += [over] if over is not None else []
    stopped = f"Stopped after iteration {iteration}: {'; '.join(reasons)}." if reasons else None
    return Verdict(tuple(warnings), stopped)


def plateau(figures: Mapping[str, float]) -> str | None:
    """Why the game is over, or None: the policy no longer tells real from generated responses on unseen prompts.

    SPIN has its fixed point where the opponent's distribution is that of the data (arXiv 2401.01335, theorem 5.2); there
    the log-ratio prefers the real response as often as not.

    Args:
        figures: held-out figures of an iteration.
    """
    if not {"win_rate", "win_rate_low", "win_rate_high"} <= set(figures) or figures["held_out"] < FEW:
        return None
    rate, low, high = figures["win_rate"], figures["win_rate_low"], figures["win_rate_high"]
    if not low <= 0.5 <= high or max(rate - low, high - rate) > WIDEST:
        return None
    return (
        f"the game is over: the policy prefers the real response to its opponent's on {100 * rate:.1f} % of the held-out "
        f"prompts ({100 * low:.1f} to {100 * high:.1f}), as often as not (`stop_at_plateau`)"
    )
