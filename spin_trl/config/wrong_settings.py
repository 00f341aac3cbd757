"""Refuse wrong names and choices of settings, with the nearest right one. Nothing here imports TRL."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..counts import agreeing
from ..errors import RecipeError, nearest, refuse_unplayable
from .arguments import options_of
from .checks import shown
from .other_names import said_of, translate, translate_arguments


def _known_as(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a suggestion for an unknown setting: its counterpart, if it is another tool's setting, or the nearest name."""
    return said_of(name.replace("-", "_"), prefix=prefix) or nearest(name, known, prefix=prefix)


def refuse_unknown_settings(path: Path, settings: Iterable[str], known: Collection[str]) -> None:
    """Raise if a recipe has unknown settings.

    Args:
        path: file of the recipe.
        settings: names of its settings.
        known: names of all settings.

    Raises:
        RecipeError: with all unknown names, and the nearest known name of each.
    """
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise RecipeError(
            f"{path}: unknown {agreeing(len(unknown), 'setting')} "
            + " ".join(f"{name!r}{_known_as(name, known)}" for name in unknown)
        )


def refuse_unknown_options(
    arguments: Sequence[str], spellings: Collection[str], known: Collection[str], own: Collection[str] = ()
) -> None:
    """Raise if options are not settings. The message doesn't name the recipe, which is not at fault.

    Args:
        arguments: overrides on the command line.
        spellings: all names that an option may have, without dashes before them.
        known: names of all settings, which are suggested.
        own: names of the command's own options, one of which may have been meant.

    Raises:
        RecipeError: with all unknown options, and the nearest known name of each.
    """
    names = dict.fromkeys(option.name for option in options_of(arguments))
    unknown = [name for name in names if name and name not in spellings]
    if unknown:
        raise RecipeError(
            f"Unknown {agreeing(len(unknown), 'option')} on the command line: "
            + " ".join(f"{f'--{name}'!r}{_known_as(name, [*known, *own], prefix='--')}" for name in unknown)
        )


def refuse_wrong_choices(
    choices: Mapping[str, Collection[str]], settings: Mapping[str, Any], path: Path | None = None
) -> None:
    """Raise if settings have values that are none of their choices. Values other than text are left to the parser.

    Args:
        choices: allowed values of the settings that have only some.
        settings: values, or lists of values, by setting.
        path: file of the recipe that sets them; None: the command line does.

    Raises:
        RecipeError: with all wrong values, and the nearest choice of each.
    """
    refuse_unplayable(
        (f"{path}: " if path is not None else "") + other_choice(name, value, choices[name])
        for name, values in settings.items()
        if name in choices
        for value in (values if isinstance(values, list) else [values])
        if isinstance(value, str) and value and value not in choices[name]
    )


def as_called_here(
    path: Path, settings: Mapping[str, Any], overrides: Sequence[str], known: Collection[str]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Rename settings and arguments that have other tools' names.

    Args:
        path: file of the recipe.
        settings: its settings.
        overrides: overrides on the command line.
        known: names of all settings.

    Returns:
        The settings, the arguments, and one warning for the file and one for the command line if they had such names.

    Raises:
        RecipeError: if a setting is given under both names with different values.
    """
    known = {*known, "per_iteration"}
    try:
        settings, renamed = translate({str(name): value for name, value in settings.items()}, known.__contains__)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
    arguments, more = translate_arguments(list(overrides), known.__contains__)
    by_place = ((path, renamed), ("On the command line", more))
    warnings = [f"{where}: names of other tools: {'; '.join(names)}." for where, names in by_place if names]
    return settings, arguments, warnings


_ENUMS = re.compile(r"(?P<value>.*) is not a valid (?P<kind>\w+), please select one of (?P<known>.*)")
_SETTINGS_OF = {
    "OptimizerNames": "optim",
    "SchedulerType": "lr_scheduler_type",
    "IntervalStrategy": "logging_strategy, eval_strategy or save_strategy",
    "SaveStrategy": "save_strategy",
    "HubStrategy": "hub_strategy",
}


def of_enum(message: str) -> str | None:
    """Rewrite transformers' message about an invalid choice to name the setting and the nearest value; None for others."""
    found = _ENUMS.fullmatch(message.strip())
    if found is None or found["kind"] not in _SETTINGS_OF:
        return None
    return other_choice(_SETTINGS_OF[found["kind"]], found["value"], re.findall(r"'([^']*)'", found["known"]))


def other_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return a message on a setting whose value is none of its choices. It names the nearest one."""
    known = list(choices)
    return f"`{name}` is {shown(value)}{nearest(str(value), known)} Choose one of {', '.join(map(repr, known))}."
