"""How a command is added: with its function, and with the rest of a line for settings where it takes any."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

RECIPES = """\
A recipe is a YAML file, a folder with spin.yaml, a run directory, or the name of a recipe that ships with the package.
Every setting of a recipe can be overridden: spin-trl run quickstart --num_iterations 2 --learning_rate '[1e-3,5e-4]'.
`spin-trl settings` lists them all.
"""
"""What the help of commands that take a recipe ends with."""


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose help may end with what takes a moment to find out.

    Attributes:
        more_help: returns it.
    """

    more_help: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help; what else belongs to it is asked for only now."""
        text = super().format_help()
        return text if self.more_help is None else f"{text}\n{self.more_help()}"


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the flag with which the code that a run directory names may run."""
    parser.add_argument(
        "--trust_run", action="store_true", help="run the code that a run directory from elsewhere names (SECURITY.md)"
    )


def add_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace, list[str]], None],
    *,
    takes_settings: bool = True,
    more_help: Callable[[], str] | None = None,
    **texts: str,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: argparse's, to add it to.
        name: of the command.
        function: what runs it, with the options and the settings that were given.
        takes_settings: whether settings of a recipe may be given.
        more_help: returns what the command's own help ends with.
        texts: argparse's `help`, for the list of commands; and `description` and `epilog`, with which the command's own help
            begins and ends, in lines as they are to stand there.

    Returns:
        The parser of its arguments.
    """
    parser: CommandParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **texts
    )
    parser.set_defaults(function=function, takes_settings=takes_settings)
    parser.more_help = more_help
    return parser
