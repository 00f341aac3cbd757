"""`spin-trl run` plays all iterations; `generate`, `train`, `evaluate`, `start`, `baseline`, `dpo` and `test`
run one phase each."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.arguments import is_overridden, options_of, without_options
from ..config.yaml_files import read_yaml
from ..errors import RecipeError
from ..files import home_expanded
from ..report.terminal import printable, shown_path
from ..run.recipe_file import find_recipe
from .commands import RECIPES, add_command, add_trust
from .failures import rank
from .session import SMOKE, session_of
from .settings import help_of_settings

if TYPE_CHECKING:
    from ..play.loop import SelfPlay

PHASE_COMMANDS = {
    "generate": "let an iteration's opponent answer the prompts",
    "train": "train an iteration on its generations",
    "evaluate": "evaluate an iteration's model on the held-out prompts",
    "start": "build the start if no checkpoint is given, or train it with `start: sft`, and evaluate it",
    "baseline": "train and evaluate an iteration's supervised baseline",
    "dpo": "train the models of `then_dpo` on preference pairs and evaluate them, after the last iteration",
    "test": "measure the start, the best model, each baseline's best and DPO's results on the test set, at the end",
}

_WITHOUT_ITERATION = ("start", "dpo", "test")
"""Phases that a run plays once. They take `--iteration`, too, so that a script can launch all phases in the same way."""


def add(commands: Any) -> None:
    """Add the commands for the whole run and for each phase."""
    what = "play all iterations, or resume a run"
    run = add_command(commands, "run", play, help=what, epilog=RECIPES, more_help=help_of_settings)
    run.add_argument("recipe", help="recipe or run directory")
    run.add_argument(
        "--until",
        choices=["generate"],
        help="end before the next generate phase, which several machines can then share",
    )
    add_trust(run)
    for name, what in PHASE_COMMANDS.items():
        phase = add_command(commands, name, play_phase, help=what, epilog=RECIPES)
        phase.add_argument("recipe", help="recipe or run directory")
        has_iteration = name not in _WITHOUT_ITERATION
        which = "iteration, counted from 0 (default: 0)" if has_iteration else "no effect: a run plays this phase once"
        phase.add_argument("--iteration", type=int, default=0, metavar="T", help=which)
        if name == "generate":
            phase.add_argument("--shard", metavar="I/N", help="generate part I of N only")
        add_trust(phase)
    what = "merge the parts of an iteration's generations that `generate --shard` has generated"
    merge = add_command(commands, "merge", play_merge, help=what, epilog=RECIPES)
    merge.add_argument("recipe", help="run directory")
    merge.add_argument("--iteration", type=int, default=0, metavar="T", help="iteration, counted from 0 (default: 0)")
    add_trust(merge)


def play(options: argparse.Namespace, overrides: list[str]) -> None:
    """Play all iterations."""
    session = session_of(options.recipe, overrides, trust_run=options.trust_run)
    result = session.run(options.until)
    if rank() == "0" and options.until is None and result.paused is None:
        print(f"Best: {result.best_stage}, in {shown_path(result.best_model)}")
        print(f"Report: {shown_path(result.directory / 'report.html')}")
        if session.state.play.smoke:
            is_chosen = names_directory(options.recipe, overrides, result.directory)
            is_apart = result.directory.name.endswith(SMOKE) and not is_chosen
            print(printable(after_smoke(options, overrides, is_apart=is_apart)))


def names_directory(source: str, overrides: list[str], directory: Path) -> bool:
    """Return whether the recipe or the command line names this run directory, which the whole run would then use, too.

    Args:
        source: recipe, as given on the command line.
        overrides: settings on the command line.
        directory: run directory.
    """
    named = [value for option in options_of(overrides) if option.name == "run_dir" for value in option.values[:1]]
    if not named:
        named = [str(read_yaml(find_recipe(source)).get("run_dir") or "")]
    return any(name and home_expanded(name).resolve() == directory.resolve() for name in named)


def after_smoke(options: argparse.Namespace, overrides: list[str], *, is_apart: bool) -> str:
    """Return the line that ends a smoke run: the command that plays the whole run.

    Args:
        options: options of the command that played the smoke run.
        overrides: its settings.
        is_apart: whether the smoke run has its own directory. If not, the whole run replaces it.
    """
    if not is_overridden("smoke", overrides):
        return "The smoke run works. Now run its recipe without `smoke`."
    settings = without_options(overrides, ["smoke"])
    if not is_apart:
        settings = [*without_options(settings, ["existing_run"]), "--existing_run", "overwrite"]
    command = ["spin-trl", "run", options.recipe, *(["--trust_run"] if options.trust_run else []), *settings]
    return f"The smoke run works. Now play the whole run: {shlex.join(command)}"


def play_phase(options: argparse.Namespace, overrides: list[str]) -> None:
    """Play one phase, or one machine's part of it."""
    session = _session_at(options, overrides)
    if getattr(options, "shard", None):
        from ..generation.parts import GenerationPart  # imports torch, which `--help` should not wait for

        session.generate_part(options.iteration, GenerationPart.parse(options.shard))
    else:
        session.run_phase(options.command, options.iteration)


def play_merge(options: argparse.Namespace, overrides: list[str]) -> None:
    """Merge the parts of an iteration's generations."""
    session = _session_at(options, overrides)
    session.merge_parts(options.iteration)
    print(f"Merged. Continue with: {shlex.join(['spin-trl', 'run', options.recipe])}")


def _session_at(options: argparse.Namespace, overrides: list[str]) -> SelfPlay:
    session = session_of(options.recipe, overrides, trust_run=options.trust_run)
    if not 0 <= options.iteration < session.state.play.num_iterations:
        raise RecipeError(
            f"`--iteration` is {options.iteration}, but the run's iterations are 0 to "
            f"{session.state.play.num_iterations - 1}."
        )
    return session
