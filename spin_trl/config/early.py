"""Refuse a recipe before TRL is imported, which takes many seconds, if its names or choices of settings are wrong.

Everything is checked again, and more thoroughly, when the recipe is read with TRL's parser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from . import credentials
from .arguments import options_of, without_options
from .reference.known import KnownSetting
from .traits import TRL_PREFIXES
from .wrong_settings import as_called_here, refuse_unknown_options, refuse_unknown_settings, refuse_wrong_choices
from .yaml_files import read_text, read_yaml

ONLY_IN_PYTHON = ("parallelism_config",)
"""Settings that the list of settings leaves out, because no recipe can set them. They are refused when they are parsed."""

OF_FILES = ("env", "per_iteration", "python")
"""Keys of a recipe's file that are not settings of any class."""


def refuse_early(path: Path, overrides: Sequence[str], known: Iterable[KnownSetting], own: Collection[str]) -> None:
    """Raise if a recipe or its overrides have an unknown setting, or one whose value is none of its choices.

    Args:
        path: file of the recipe.
        overrides: overrides on the command line.
        known: all settings that a recipe may have.
        own: names of the command's own options, one of which may have been meant.

    Raises:
        RecipeError: if a setting is unknown, or its value is not one of its choices; the message gives the nearest one.
    """
    by_name = {setting.name: setting for setting in known}
    settings = read_yaml(path)
    credentials.refuse_credentials(settings, path)
    credentials.refuse_in_text(read_text(path), path)
    names = [*by_name, *ONLY_IN_PYTHON, *OF_FILES]
    settings, arguments, _ = as_called_here(path, settings, overrides, names)
    # SFTConfig and DPOConfig know these.
    settings = {name: value for name, value in settings.items() if not name.startswith(TRL_PREFIXES)}
    arguments = without_options(
        arguments, [one.name for one in options_of(arguments) if one.name.startswith(TRL_PREFIXES)]
    )
    refuse_unknown_settings(path, settings, names)
    spellings = [*names, *(f"no_{setting.name}" for setting in by_name.values() if "boolean" in setting.kinds)]
    refuse_unknown_options(arguments, [*spellings, *(name.replace("_", "-") for name in spellings)], names, own)
    on_line = {option.name.replace("-", "_"): option.values for option in options_of(arguments)}
    choices = {setting.name: setting.choices for setting in by_name.values() if setting.choices is not None}
    refuse_wrong_choices(choices, {name: value for name, value in settings.items() if name not in on_line}, path)
    refuse_wrong_choices(choices, on_line)
