"""Settings that a recipe passes to one of TRL's configs: `sft_X` is SFTConfig's `X`, `dpo_X` DPOConfig's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from transformers import TrainingArguments

from ..errors import RecipeError, nearest
from .bounds import OF_RECIPES, TRL_SETTINGS
from .checks import Bounds, Choices, as_mapping, check_setting
from .kinds import typed
from .plain import differences_from_defaults


@dataclass(frozen=True)
class TrlArgs:
    """The settings of a config of TRL that a recipe may set, under a prefix.

    Attributes:
        config: TRL's config.
        prefix: prefix of the settings in a recipe.
        method: name of the training method, for messages.
        set_by_run: settings that the run itself sets, so that a recipe may not.
    """

    config: type[Any]
    prefix: str
    method: str
    set_by_run: frozenset[str]

    @property
    def argument(self) -> str:
        """The setting of the loop that holds all of them, as a mapping."""
        return f"{self.prefix}args"

    @functools.cached_property
    def kinds(self) -> Mapping[str, Any]:
        """The declared type of each setting that a recipe may set, by its name without the prefix."""
        hints, names = get_type_hints(self.config), fields(self.config)
        return {one.name: hints[one.name] for one in names if one.init and one.name not in self.set_by_run}

    def check(self, values: Any) -> dict[str, Any]:
        """Check settings and convert them to their types.

        Args:
            values: settings by name, without the prefix, as a mapping or JSON; or TRL's config, of which the settings that
                differ from its defaults are used, except those that the run sets itself.

        Raises:
            RecipeError: if a setting is unknown or set by the run itself, or its value is not allowed.
        """
        if isinstance(values, self.config):
            values = {name: value for name, value in differences_from_defaults(values).items() if name in self.kinds}
        checked, trl = dict[str, Any](), self.config.__name__
        for name, value in (as_mapping(self.argument, values) or {}).items():
            named = f"{self.prefix}{name}"
            if name in self.set_by_run:
                raise RecipeError(f"`{named}` can't be set: the run sets {trl}'s `{name}` itself.")
            if name not in self.kinds:
                raise RecipeError(
                    f"Unknown setting {named!r} of {self.method} (`{self.argument}`)"
                    f"{nearest(named, [f'{self.prefix}{one}' for one in self.kinds])}"
                )
            checked[name] = typed(named, value, self.kinds[name])
        for name, value in checked.items():
            allowed: Bounds | Choices | None = {**TRL_SETTINGS, **OF_RECIPES}.get(name)
            is_ignored = name == "num_train_epochs" and checked.get("max_steps", -1) > 0
            if allowed is not None and value is not None and not is_ignored:
                check_setting(f"{self.prefix}{name}", value, allowed)
        return checked


def set_too(config: TrainingArguments, usual: TrainingArguments) -> set[str]:
    """Return the names of the settings that differ from the usual ones: those that were given, and those that they set in
    turn, such as the setting of which one is an earlier name.

    Args:
        config: settings with some given values.
        usual: settings of the same class without them.
    """
    return {field.name for field in fields(config) if getattr(config, field.name) != getattr(usual, field.name)}
