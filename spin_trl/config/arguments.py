"""Split a command line into options with their values: shared by all code that finds, renames or removes settings in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Option:
    """An option and its values.

    Attributes:
        name: name without its dashes; empty for arguments before the first option.
        values: values after `=` and those that follow the option.
        arguments: original arguments, unchanged.
    """

    name: str
    values: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


def options_of(arguments: Iterable[str]) -> list[Option]:
    """Return the options of a command line in order."""
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
    """Return whether command-line arguments set a setting."""
    return any(option.name == name for option in options_of(arguments))


def without_options(arguments: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return command-line arguments without these options and their values."""
    gone = set(names)
    return [argument for option in options_of(arguments) if option.name not in gone for argument in option.arguments]
