"""Read a recipe: YAML in TRL's flat style, overridden on the command line, and checked key by key.

TRL's parser does the parsing. Unknown keys are refused before it sees the settings, and lists for settings that may differ
by iteration are split off (it would turn `[5e-7, 1e-7]` into strings).
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast, get_type_hints

import yaml
from transformers.integrations import unset_hf_deepspeed_config
from trl import ModelConfig, TrlParser

from ..errors import RecipeError
from ..objectives.registry import OWN_SETTINGS, meaningless, own_settings, without_mix
from . import credentials
from .arguments import is_overridden, options_of, without_options
from .bounds import OF_RECIPES, TRL_SETTINGS
from .checks import Choices, as_mapping, check_setting, shown
from .data import DataConfig
from .environment import environment_of
from .fetched import model_path
from .iteration import SPINConfig
from .kinds import typed, types_in
from .loop import PER_ITERATION, SelfPlayConfig
from .paths import found_from
from .plain import accelerates_state_kept, differences_from_defaults
from .recipe_file import find_file, name_of_recipe
from .rubric import RUBRIC
from .start import StartConfig
from .traits import TRL_PREFIXES
from .unusual import unusual
from .wrong_settings import (
    as_called_here,
    of_enum,
    other_choice,
    refuse_unknown_options,
    refuse_unknown_settings,
    refuse_wrong_choices,
)
from .yaml_files import read_text, read_yaml
from .yaml_text import parse_yaml

if TYPE_CHECKING:
    from trl.scripts._hf_argparser import DataClassType

logger = logging.getLogger(__name__)


@dataclass
class Recipe:
    """A parsed recipe.

    Attributes:
        name: name of the recipe, taken from its folder or file.
        data: settings of the data.
        args: settings of an iteration.
        play: settings of the loop.
        start: settings for training θ_0 if no model is named.
        model: settings of the model and of how to load it.
        python: model of a run that was started from Python, and how it is loaded; None for other runs.
        file: file that the recipe was read from.
        output_dir: value set in the file or on the command line; None if not set.
    """

    name: str
    data: DataConfig
    args: SPINConfig
    play: SelfPlayConfig
    start: StartConfig
    model: ModelConfig
    python: dict[str, Any] | None = None
    file: Path | None = None
    output_dir: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return all settings that differ from their defaults, as a recipe."""
        return differences_from_defaults(self.data, self.args, self.play, self.start, self.model)

    def unused(self, *, starts_from_adapter: bool) -> list[str]:
        """Return one sentence per setting that is set but has no effect.

        Args:
            starts_from_adapter: whether the named model is an adapter.
        """
        said = []
        lora = [name for name in self.settings() if name.startswith("lora_") and name in vars(self.model)]
        lora += [name for name in ("use_rslora", "use_dora") if getattr(self.model, name)]
        named = ", ".join(f"`{name}`" for name in lora)
        if starts_from_adapter:
            if lora or self.model.use_peft:
                said.append(
                    f"{named or '`use_peft`'}: not used, because {self.model.model_name_or_path} is already an adapter. "
                    "Training continues with that adapter as configured."
                )
        elif lora and not (self.model.use_peft or self.play.sft_use_peft):
            said.append(f"{named}: not used, because `use_peft` is not true: all weights are trained.")
        if self.play.rubric is not None and RUBRIC not in (self.play.scorer or []) + (self.play.retain_scorer or []):
            said.append("`rubric`: not used, because `scorer` does not name `rubric`.")
        if self.args.metric_for_best_model and not self.args.load_best_model_at_end:
            said.append("`metric_for_best_model`: not used; `metric_for_best_iteration` chooses the best iteration.")
        if self.args.resume_from_checkpoint:
            said.append("`resume_from_checkpoint`: not used; run the same command again to resume an interrupted run.")
        if self.args.label_smoothing_factor:
            said.append("`label_smoothing_factor`: not used; DPO's losses have `label_smoothing`.")
        return said

    def unusual(self) -> list[str]:
        """Return one sentence per setting with a valid but unlikely value."""
        return unusual(self.args, self.play)

    def load_as_set(self) -> None:
        """Copy the settings for loading a named model to `model_init_kwargs`, from which it is loaded."""
        model = self.model
        if model.model_name_or_path is not None:
            known = {
                "revision": model.model_revision,
                "attn_implementation": model.attn_implementation,
                "dtype": model.dtype,
            }
            set_there = {name: value for name, value in known.items() if value is not None}
            self.args.model_init_kwargs = set_there | self.args.model_kwargs


# TRL's parser asks for a type that no class has.
_DATACLASSES = cast("list[DataClassType]", [DataConfig, SPINConfig, SelfPlayConfig, StartConfig, ModelConfig])


class _Parser(TrlParser):
    """TRL's parser, except that it raises an error instead of ending the process, and knows more choices of values."""

    def __init__(self, dataclass_types: list[DataClassType], **options: Any) -> None:
        super().__init__(dataclass_types, **options)
        for action in self._actions:
            allowed = TRL_SETTINGS.get(action.dest)
            if action.choices is None and isinstance(allowed, Choices):
                action.choices = list(allowed)
            if set(types_in(kinds_of_settings().get(action.dest))) == {int, str}:
                action.type = str  # TRL's parser takes numbers only; [`typed`] converts them

    def error(self, message: str) -> NoReturn:
        raise RecipeError(of_enum(message) or message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, other_choice(action.dest, value, map(str, action.choices)))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, then check values from the command line like those of a file."""
        found, rest = super().parse_known_args(args, namespace)
        for name in {option.name.replace("-", "_") for option in options_of(args or [])} & kinds_of_settings().keys():
            setattr(found, name, typed(name, getattr(found, name), kinds_of_settings()[name]))
        return found, rest


def read_settings(
    source: str,
    overrides: Sequence[str] = (),
    losses: Mapping[str, float] | None = None,
    *,
    accept_python: bool = False,
    name: str | None = None,
    paths_from: Path | None = None,
    is_foreign: bool = False,
) -> Recipe:
    """Read a recipe.

    Args:
        source: path of a YAML file or of a folder with `spin.yaml` or `recipe.yaml`, or the name of a recipe that ships
            with the package.
        overrides: command-line arguments, like `--learning_rate 1e-6`.
        losses: weights by `loss_type`, replacing the recipe's own. Settings that belong to other losses are left out.
        accept_python: also read the settings of a run that was started from Python, which can't be played from them.
        name: name of the recipe; None: the name of its folder or file.
        paths_from: folder that relative paths in the file refer to; None: the current folder.
        is_foreign: whether the file comes from a run directory and may only set harmless environment variables.

    Raises:
        RecipeError: if a key is unknown (the message names the nearest known one), or a value is not allowed.
    """
    # Long, because each step depends on what the previous ones have found in the same settings.
    path = find_file(source)
    settings = read_yaml(path)
    credentials.refuse_credentials(settings, path)
    credentials.refuse_in_text(read_text(path), path)
    credentials.refuse_in_arguments(overrides)
    if paths_from is not None:
        settings = found_from(paths_from, settings)
    sets_output_dir = bool(settings.get("output_dir")) or is_overridden("output_dir", overrides)
    python = settings.pop("python", None)
    if python is not None and not accept_python:
        raise RecipeError(f"{path} belongs to a run that was started from Python. Continue it from Python.")
    # As TRL's recipes do.
    os.environ.update(environment_of(path, settings.pop("env", None), is_foreign=is_foreign))
    parser = _Parser(_DATACLASSES, allow_abbrev=False)
    settings, overrides, warnings = as_called_here(path, settings, overrides, _known(parser))
    for warning in warnings:
        logger.warning(warning)
    if losses is not None:
        settings, overrides = _with_losses(settings, overrides, losses)
    lists = {name: settings.pop(name) for name in PER_ITERATION if isinstance(settings.get(name), list)}
    arguments, more = _split_lists(overrides)
    for prefix in TRL_PREFIXES:
        settings, arguments = _with_trl_args(prefix, settings, arguments, _known(parser))
    lists = {**(as_mapping("per_iteration", settings.pop("per_iteration", None)) or {}), **lists, **more}
    lists = {name: values for name, values in lists.items() if not is_overridden(name, arguments)}
    refuse_unknown_settings(path, settings, _known(parser))
    spellings = [name.removeprefix("--") for name in parser._option_string_actions]
    refuse_unknown_options(arguments, spellings, _known(parser))
    # argparse checks the choices of arguments only.
    choices = {action.dest: list(map(str, action.choices)) for action in parser._actions if action.choices}
    refuse_wrong_choices(choices, settings, path)
    settings = {name: _typed(path, name, value) for name, value in settings.items()}
    parser.set_defaults_with_config(**settings, **({"per_iteration": lists} if lists else {}))
    try:
        parsed = parser.parse_args_into_dataclasses(args=list(arguments))
    except RecipeError:
        raise
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        if (stray := re.search(r"not used by the HfArgumentParser: (\[.*\])", str(error))) is not None:
            message = f"Unexpected arguments on the command line: {stray[1]}. Settings begin with `--`."
            raise RecipeError(message) from error
        raise RecipeError(_naming(path, of_enum(str(error)) or str(error), settings, arguments)) from error
    except (
        Exception
    ) as error:  # something that the settings need is missing: the deepspeed package, a GPU, a process group
        # One without its package stays known, unfinished, as long as this error does, and no model could be loaded.
        unset_hf_deepspeed_config()
        message = f"these settings can't be used here: {type(error).__name__}: {error}"
        raise RecipeError(_naming(path, message, settings, arguments)) from error
    recipe = Recipe(name or name_of_recipe(path), *parsed)
    for setting, allowed in OF_RECIPES.items():
        if hasattr(recipe.model, setting):
            check_setting(setting, getattr(recipe.model, setting), allowed)
    recipe.python, recipe.file = python, path
    if recipe.model.model_name_or_path is not None:
        recipe.model.model_name_or_path = model_path(os.path.expanduser(recipe.model.model_name_or_path))
    recipe.output_dir = recipe.args.output_dir if sets_output_dir else None
    return recipe


def _with_losses(
    settings: dict[str, Any], overrides: Sequence[str], losses: Mapping[str, float]
) -> tuple[dict[str, Any], list[str]]:
    """Return settings and arguments for other losses, without those that belong to none of these losses."""
    gone = {"loss_type", "loss_weights", *OWN_SETTINGS} - own_settings(losses) | meaningless(losses).keys()
    gone |= {"opponent_mix"} if without_mix(list(losses)) else set()
    kept = {name: value for name, value in settings.items() if name not in gone}
    lists = as_mapping("per_iteration", kept.pop("per_iteration", None)) or {}
    lists = {name: values for name, values in lists.items() if name not in gone}
    chosen = {"loss_type": list(losses), "loss_weights": list(losses.values())}
    return kept | chosen | ({"per_iteration": lists} if lists else {}), without_options(overrides, gone)


def _typed(path: Path, name: str, value: Any) -> Any:
    """Convert a value from the YAML file to its setting's type: argparse only checks and converts text."""
    try:
        return typed(name, value, kinds_of_settings()[name])
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _naming(path: Path, message: str, settings: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """Prefix a library's error message with the setting that causes it, and with where this setting is set.

    The cause is the setting that the message names, or else the one without which parsing succeeds.
    """
    on_line = [option.name.replace("-", "_") for option in options_of(arguments) if option.name]
    given = dict.fromkeys([*settings, *on_line])
    named = [name for name in given if re.search(rf"\b{re.escape(name)}\b", message)]
    if named:
        return f"{'On the command line' if set(named) <= set(on_line) else path}: {message}"
    for name in given:
        parser = _Parser(_DATACLASSES, allow_abbrev=False)
        parser.set_defaults_with_config(**{other: value for other, value in settings.items() if other != name})
        try:
            with accelerates_state_kept():
                parser.parse_args_into_dataclasses(args=without_options(arguments, {name, name.replace("_", "-")}))
        except Exception:  # the error does not depend on this setting
            continue
        if name in on_line:
            return f"`--{name}` on the command line: {message}"
        return f"{path}: `{name}` is {shown(settings[name])}: {message}"
    return f"{path}: {message}"


@functools.cache
def kinds_of_settings() -> dict[str, Any]:
    """Return the declared type of each setting. (TRL's parser changes the types in the fields.)"""
    hints = [(kind, get_type_hints(kind)) for kind in cast("list[type[Any]]", _DATACLASSES)]
    return {field.name: found[field.name] for kind, found in hints for field in fields(kind) if field.init}


def _split_lists(overrides: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Split lists such as `--learning_rate '[5e-7,1e-7]'` off the arguments."""
    rest, lists = [], {}
    for option in options_of(overrides):
        value, *more = option.values or [""]
        if option.name not in PER_ITERATION or not value.startswith("["):
            rest += option.arguments
            continue
        rest += more
        try:
            lists[option.name] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"`--{option.name}` is {shown(value)}; expected a list like '[5e-7,1e-7]'.") from error
    return rest, lists


def _with_trl_args(
    prefix: str, settings: dict[str, Any], arguments: Sequence[str], known: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Gather all settings with a prefix that are not settings of the loop (`sft_X`) under one name (`sft_args`), for TRL.

    Args:
        prefix: one of [`TRL_PREFIXES`].
        settings: settings of the file.
        arguments: command-line arguments, which take precedence.
        known: names of all other settings.

    Raises:
        RecipeError: if that name is not a mapping, or text on the command line is not valid YAML.
    """
    gathered = f"{prefix}args"
    found = as_mapping(gathered, settings.get(gathered)) or {}
    here = {name: value for name, value in settings.items() if name.startswith(prefix) and name not in known}
    found |= {name.removeprefix(prefix): value for name, value in here.items()}
    on_line = [one for one in options_of(arguments) if one.name.startswith(prefix) and one.name not in known]
    for option in on_line:
        try:
            values = [parse_yaml(value) for value in option.values] or [True]
        except yaml.YAMLError as error:
            raise RecipeError(f"`--{option.name}` is {shown(' '.join(option.values))}; expected one value.") from error
        found[option.name.removeprefix(prefix)] = values[0] if len(values) == 1 else values
    if on_line and is_overridden(gathered, arguments):
        raise RecipeError(f"`--{gathered}` and `--{on_line[0].name}` can't be combined. Use one of them.")
    rest = {name: value for name, value in settings.items() if name not in here}
    return rest | ({gathered: found} if found else {}), without_options(arguments, [one.name for one in on_line])


def known_settings() -> frozenset[str]:
    """Return the names of all settings that a recipe may have."""
    return frozenset(_known(_Parser(_DATACLASSES)))


def classes_of_settings() -> dict[str, type[Any]]:
    """Return the dataclass that declares each setting that a recipe may have."""
    classes = cast("list[type[Any]]", _DATACLASSES)
    by_name = {field.name: kind for kind in classes for field in fields(kind) if field.init}
    known = known_settings()
    return {name: kind for name, kind in by_name.items() if name in known}


def _known(parser: argparse.ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest != "help"]
