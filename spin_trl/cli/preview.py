"""`spin-trl preview`: show rows of a recipe as they will be tokenised, without loading the model."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import DataError, refuse_unplayable
from .commands import RECIPES, add_command, add_trust
from .session import quieten, run_dir_of

_WHAT_IT_SHOWS = """\
Show rows as a run will tokenise them: the prompt, the real response and how it ends, what the chat template adds, and what
`max_length` truncates. Also count the rows that are left out. Only the tokenizer is loaded, and nothing is written. If the
data has more than 5,000 rows, an evenly spaced sample is counted. With `dpo_name`, preference pairs are shown as well, as
DPOTrainer will tokenise them.
Exit codes: 0 a run accepts these rows; 2 it does not, or the input is bad.
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "show rows as they will be tokenised, without loading the model"
    parser = add_command(commands, "preview", preview_rows, help=what, description=_WHAT_IT_SHOWS, epilog=RECIPES)
    parser.add_argument("recipe", help="recipe or run directory")
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="number of rows to show (default: 3)")
    parser.add_argument(
        "--at", type=int, default=0, metavar="ROW", help="first row to show, counted from 0 (default: 0)"
    )
    parser.add_argument("--full", action="store_true", help="show long texts in full")
    parser.add_argument("--all", action="store_true", help="count all rows, however many there are")
    add_trust(parser)


def preview_rows(options: argparse.Namespace, overrides: list[str]) -> None:
    """Show the rows."""
    quieten()
    from ..play.first_steps.preview import preview
    from ..play.first_steps.preview_text import show_preview
    from ..report import terminal
    from ..run.recipe import read_recipe
    from ..run.trust import check_trust_of_recipe

    if options.rows < 0:
        raise DataError(f"`--rows` is {options.rows}; it must be at least 0.")
    recipe = read_recipe(options.recipe, [*overrides, "--use_cpu", "true"])  # rows are the same with and without a GPU
    check_trust_of_recipe(recipe, overrides, is_trusted=options.trust_run)
    recipe.play.run_dir = run_dir_of(recipe, options.recipe, overrides)
    recipe.load_as_set()
    found = preview(recipe, rows=options.rows, at=options.at, every=options.all)
    show_preview(terminal.console(), found, full=options.full)
    refuse_unplayable(found.refusals, DataError)
