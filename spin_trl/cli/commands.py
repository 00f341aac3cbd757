"""How a command is added: with its function, and with the rest of a line for settings where it takes any."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

RECIPES = """\
A recipe is a YAML file, a folder with spin.yaml, a run directory, or the name of a recipe that ships with the package.
Every setting of a recipe can be overridden: spin-trl run quickstart --num_iterations 2 --learning_rate '[1e-3,5e-4]'.
"""
"""What the help of commands that take a recipe ends with."""


def add_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace, list[str]], None],
    help: str,
    *,
    description: str | None = None,
    epilog: str | None = None,
    takes_settings: bool = True,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: argparse's, to add it to.
        name: of the command.
        function: what runs it, with the options and the settings that were given.
        help: what it does, in the list of commands.
        description: the same for its own help, in lines as they are to stand there.
        epilog: how that ends, likewise.
        takes_settings: whether settings of a recipe may be given.

    Returns:
        The parser of its arguments.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(function=function, takes_settings=takes_settings)
    return parser
