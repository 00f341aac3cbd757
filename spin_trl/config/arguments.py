"""A command line as options with their values: how all read it that look for a setting there, rename it or take it out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Option:
    """An option, and what stands behind it.

    Attributes:
        name: without its dashes; empty for what stands before the first option.
        values: behind `=`, and behind the option.
        arguments: all of it, as it was given.
    """

    name: str
    values: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


def options_of(arguments: Iterable[str]) -> list[Option]:
    """The options of a command line, in their order."""
    found = [Option("")]
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            found.append(Option(name, [value] if equals else []))
        else:
            found[-1].values.append(argument)
        found[-1].arguments.append(argument)
    return found


def is_overridden(name: str, arguments: Iterable[str]) -> bool:
    """Whether command-line arguments give a setting a value."""
    return any(option.name == name for option in options_of(arguments))


def without_options(arguments: Iterable[str], names: Iterable[str]) -> list[str]:
    """Command-line arguments without these options and their values."""
    gone = set(names)
    return [argument for option in options_of(arguments) if option.name not in gone for argument in option.arguments]
