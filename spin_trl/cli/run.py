"""`spin-trl run` plays all iterations; `generate`, `train`, `evaluate`, `start` and `baseline` run one phase each."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import RecipeError
from ..report.terminal import shown_path
from .commands import RECIPES, add_command, add_trust
from .failures import rank
from .session import session_of
from .settings import help_of_settings

PHASE_COMMANDS = {
    "generate": "let an iteration's opponent answer the prompts",
    "train": "train an iteration on its generations",
    "evaluate": "evaluate an iteration's model on the held-out prompts",
    "start": "build the start, if no checkpoint is given, and evaluate it",
    "baseline": "train and evaluate an iteration's supervised baseline",
}


def add(commands: Any) -> None:
    """Add the commands for the whole run and for each phase."""
    what = "play all iterations, or resume a run"
    run = add_command(commands, "run", play, help=what, epilog=RECIPES, more_help=help_of_settings)
    run.add_argument("recipe", help="recipe or run directory")
    add_trust(run)
    for name, what in PHASE_COMMANDS.items():
        phase = add_command(commands, name, play_phase, help=what, epilog=RECIPES)
        phase.add_argument("recipe", help="recipe or run directory")
        phase.add_argument(
            "--iteration", type=int, default=0, metavar="T", help="iteration, counted from 0 (default: 0)"
        )
        add_trust(phase)


def play(options: argparse.Namespace, overrides: list[str]) -> None:
    """Play all iterations."""
    result = session_of(options.recipe, overrides, trust_run=options.trust_run).run()
    if rank() == "0":
        print(f"Best: {result.best_stage}, in {shown_path(result.best_model)}")
        print(f"Report: {shown_path(result.directory / 'report.html')}")


def play_phase(options: argparse.Namespace, overrides: list[str]) -> None:
    """Play one phase."""
    session = session_of(options.recipe, overrides, trust_run=options.trust_run)
    if not 0 <= options.iteration < session.state.play.num_iterations:
        raise RecipeError(
            f"`--iteration` is {options.iteration}, but the run's iterations are 0 to "
            f"{session.state.play.num_iterations - 1}."
        )
    session.run_phase(options.command, options.iteration)
