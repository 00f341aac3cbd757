"""Adds a command to the command line: its function, its help, and whether it takes settings as overrides."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..config.arguments import options_of
from ..errors import nearest
from ..report.terminal import printable

RECIPES = """\
A recipe is a YAML file, a folder that contains spin.yaml, a run directory, or the name of a recipe shipped with the package.
"""
"""The end of the help of commands that take a recipe."""

SETTINGS = """\
--SETTING VALUE overrides a setting of the recipe: --num_iterations 2 (`spin-trl settings` lists all of them).
Separate the values of a list by spaces: --loss_type sigmoid space. Write a value for each iteration as a quoted list:
--learning_rate '[1e-3,5e-4]'. Write a mapping as JSON: --column_mapping '{"question": "prompt"}'.
"""
"""The end of the description of commands that take settings."""

_MORE_USAGE = "[--SETTING VALUE ...]"


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that suggests the nearest name, and whose help may end with text that takes a moment to compute.

    Attributes:
        more_help: function that returns this text, or None.
    """

    more_help: Callable[[], str] | None = None

    def format_usage(self) -> str:
        """Return the usage. Settings are not arguments of the parser, so argparse leaves them out."""
        usage = super().format_usage()
        if not self.get_default("takes_settings"):
            return usage
        *_, last = usage.splitlines()
        fits = len(last) + 1 + len(_MORE_USAGE) <= shutil.get_terminal_size().columns - 2
        return f"{usage.rstrip()}{' ' if fits else chr(10) + ' ' * len(f'usage: {self.prog} ')}{_MORE_USAGE}\n"

    def format_help(self) -> str:
        """Return the help; `more_help` is called only here."""
        text = super().format_help().replace(super().format_usage(), self.format_usage(), 1)
        return text if self.more_help is None else f"{text}\n{self.more_help()}"

    def own_options(self) -> list[str]:
        """Return the names of the parser's own options, without dashes. Settings are not among them."""
        return [name.removeprefix("--") for name in self._option_string_actions if name.startswith("--")]

    def refuse_unknown(self, arguments: Sequence[str]) -> NoReturn:
        """Print what is unknown, with the nearest option, and exit."""
        known = self.own_options()
        (first, *_) = [option.name for option in options_of(arguments) if option.name] or [""]
        near = nearest(first, known, prefix="--") if first else "."
        self.error(printable(f"unrecognized arguments: {' '.join(arguments)}{near}"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"{value!r} is not known{nearest(str(value), known)} Choose one of {', '.join(known)}."
            )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the flag that allows code named by a run directory to run."""
    parser.add_argument(
        "--trust_run",
        action="store_true",
        help="trust a run directory that was copied from elsewhere: run the code it names (see SECURITY.md)",
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
        commands: argparse subparsers to add the command to.
        name: name of the command.
        function: function that runs the command; it is called with the parsed options and the overrides.
        takes_settings: whether recipe settings may be given as overrides.
        more_help: function that returns the end of the command's own help.
        texts: argparse's `help` for the list of commands, and `description` and `epilog` for the beginning and the end of
            the command's own help, whose line breaks are preserved.

    Returns:
        The command's parser.
    """
    if takes_settings:
        what = texts.get("help", name)
        texts["description"] = f"{texts.get('description', f'{what[0].upper()}{what[1:]}.').rstrip()}\n{SETTINGS}"
    parser: CommandParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **texts
    )
    parser.set_defaults(function=function, takes_settings=takes_settings, parser=parser)
    parser.more_help = more_help
    return parser
