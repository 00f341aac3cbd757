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
from trl import ModelConfig, TrlParser

from ..counts import agreeing, with_article
from ..errors import RecipeError, nearest
from ..files import home_expanded
from ..objectives.registry import OWN_SETTINGS, meaningless, own_settings, without_mix
from . import credentials, shipped
from .arguments import is_overridden, options_of, without_options
from .bounds import OF_RECIPES
from .checks import as_mapping, check_setting, shown
from .data import DataConfig
from .fetched import model_path
from .iteration import SPINConfig
from .kinds import typed
from .loop import PER_ITERATION, SelfPlayConfig
from .other_names import said_of, translate, translate_arguments
from .paths import found_from
from .plain import accelerates_state_kept, differences_from_defaults
from .sft import PREFIX
from .start import StartConfig
from .traits import HARMLESS_VARIABLES, OF_LAUNCHERS
from .unusual import unusual
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
    """TRL's parser, except that it raises an error instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(_of_enum(message) or message)

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
    environment = _environment_of(path, settings.pop("env", None))
    refused = sorted(variable for variable in environment if variable not in HARMLESS_VARIABLES)
    if is_foreign and refused:
        raise RecipeError(
            f"{path} is in a run directory, and its `env` sets {', '.join(refused)}. A run directory may only set "
            f"{', '.join(sorted(HARMLESS_VARIABLES))}. Remove the others, and set them yourself if you want them."
        )
    os.environ.update(environment)  # as TRL's recipes do
    parser = _Parser(_DATACLASSES, allow_abbrev=False)
    settings, overrides = _as_called_here(path, settings, overrides, parser)
    if losses is not None:
        settings, overrides = _with_losses(settings, overrides, losses)
    lists = {name: settings.pop(name) for name in PER_ITERATION if isinstance(settings.get(name), list)}
    arguments, more = _split_lists(overrides)
    settings, arguments = _with_sft_args(settings, arguments, _known(parser))
    lists = {**(as_mapping("per_iteration", settings.pop("per_iteration", None)) or {}), **lists, **more}
    lists = {name: values for name, values in lists.items() if not is_overridden(name, arguments)}
    unknown = [key for key in settings if key not in _known(parser)]
    if unknown:
        raise RecipeError(
            f"{path}: unknown {agreeing(len(unknown), 'setting')} "
            + " ".join(f"{name!r}{_known_as(name, parser)}" for name in unknown)
        )
    _refuse_unknown_options(arguments, parser)
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
        raise RecipeError(_naming(path, _of_enum(str(error)) or str(error), settings, arguments)) from error
    except (
        Exception
    ) as error:  # something that the settings need is missing: the deepspeed package, a GPU, a process group
        message = f"these settings can't be used here: {type(error).__name__}: {error}"
        raise RecipeError(_naming(path, message, settings, arguments)) from error
    recipe = Recipe(name or _name_of_run(path), *parsed)
    for setting, allowed in OF_RECIPES.items():
        if hasattr(recipe.model, setting):
            check_setting(setting, getattr(recipe.model, setting), allowed)
    recipe.python, recipe.file = python, path
    if recipe.model.model_name_or_path is not None:
        recipe.model.model_name_or_path = model_path(os.path.expanduser(recipe.model.model_name_or_path))
    recipe.output_dir = recipe.args.output_dir if sets_output_dir else None
    return recipe


def _environment_of(path: Path, value: Any) -> dict[str, str]:
    """Return a recipe's environment variables. Messages do not repeat values, which may contain a token."""
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(
            f"{path}: `env` is {with_article(type(value).__name__)}; expected a mapping, like {{NAME: value}}."
        )
    found = {}
    for name, content in (value or {}).items():
        if not isinstance(name, str) or re.fullmatch(r"[^=\0\ud800-\udfff]+", name) is None:
            raise RecipeError(f"{path}: `env` has {shown(name)}, which is not a valid name of a variable.")
        if not isinstance(content, str | int | float) or re.search(r"[\0\ud800-\udfff]", str(content)):
            raise RecipeError(
                f"{path}: `env` sets {shown(name)} to {with_article(type(content).__name__)}; expected text or a number."
            )
        found[name] = str(content)
    if of_launchers := sorted(OF_LAUNCHERS & found.keys()):
        raise RecipeError(
            f"{path}: `env` sets {', '.join(of_launchers)}, which a launcher uses to tell each process its rank. Leave "
            "them out: `accelerate launch` and a run's own launches (`accelerate_config`) set them."
        )
    return found


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


def find_file(source: str) -> Path:
    """Find the file of a recipe, given a path, a folder, or the name of a recipe that ships with the package.

    Raises:
        RecipeError: if there is none.
    """
    path = home_expanded(source)
    for candidate in (path, path / "recipe.yaml", path / "spin.yaml"):
        if os.path.isfile(candidate):
            return candidate
    known = shipped.recipes()
    if source in known:
        return known[source]
    if os.path.isdir(path):
        reason = f"The folder {source!r} contains neither recipe.yaml nor spin.yaml"
    elif os.path.exists(path):  # a device or a pipe
        reason = f"{source!r} is not a regular file"
    else:
        reason = f"There is no file or folder {source!r}"
    raise RecipeError(
        f"{reason}, and no recipe of that name ships with the package{nearest(source, known)} The package ships "
        f"{', '.join(sorted(known))}."
    )


def _name_of_run(path: Path) -> str:
    """Return the default name of a run, which also names its folder."""
    if path.name == "recipe.yaml":
        return path.absolute().parent.name
    return (shipped.name_of(path.resolve()) or path.stem).replace("/", "-")


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


def _with_sft_args(
    settings: dict[str, Any], arguments: Sequence[str], known: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Gather all settings named `sft_X` that are not settings of the loop under `sft_args`, for `SFTConfig`.

    Args:
        settings: settings of the file.
        arguments: command-line arguments, which take precedence.
        known: names of all other settings.

    Raises:
        RecipeError: if `sft_args` is not a mapping, or text on the command line is not valid YAML.
    """
    found = as_mapping("sft_args", settings.get("sft_args")) or {}
    here = {name: value for name, value in settings.items() if name.startswith(PREFIX) and name not in known}
    found |= {name.removeprefix(PREFIX): value for name, value in here.items()}
    on_line = [one for one in options_of(arguments) if one.name.startswith(PREFIX) and one.name not in known]
    for option in on_line:
        try:
            values = [parse_yaml(value) for value in option.values] or [True]
        except yaml.YAMLError as error:
            raise RecipeError(f"`--{option.name}` is {shown(' '.join(option.values))}; expected one value.") from error
        found[option.name.removeprefix(PREFIX)] = values[0] if len(values) == 1 else values
    if on_line and is_overridden("sft_args", arguments):
        raise RecipeError(f"`--sft_args` and `--{on_line[0].name}` can't be combined. Use one of them.")
    rest = {name: value for name, value in settings.items() if name not in here}
    return rest | ({"sft_args": found} if found else {}), without_options(arguments, [one.name for one in on_line])


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


def _known_as(name: str, parser: argparse.ArgumentParser, *, prefix: str = "") -> str:
    """Return a suggestion for an unknown setting: its counterpart, if it is another tool's setting, or the nearest name."""
    return said_of(name.replace("-", "_"), prefix=prefix) or nearest(name, _known(parser), prefix=prefix)


def _refuse_unknown_options(arguments: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Refuse options that are not settings. The message doesn't name the recipe, which is not at fault."""
    names = dict.fromkeys(option.name for option in options_of(arguments))
    unknown = [name for name in names if name and f"--{name}" not in parser._option_string_actions]
    if unknown:
        raise RecipeError(
            f"Unknown {agreeing(len(unknown), 'option')} on the command line: "
            + " ".join(f"{f'--{name}'!r}{_known_as(name, parser, prefix='--')}" for name in unknown)
        )


def _as_called_here(
    path: Path, settings: dict[str, Any], overrides: Sequence[str], parser: argparse.ArgumentParser
) -> tuple[dict[str, Any], list[str]]:
    """Rename settings and arguments that have other tools' names, with a warning that lists them."""
    known = {*_known(parser), "per_iteration"}
    try:
        settings, renamed = translate({str(name): value for name, value in settings.items()}, known.__contains__)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
    arguments, more = translate_arguments(list(overrides), known.__contains__)
    for where, names in ((path, renamed), ("On the command line", more)):
        if names:
            logger.warning("%s: names of other tools: %s.", where, "; ".join(names))
    return settings, arguments


_ENUMS = re.compile(r"(?P<value>.*) is not a valid (?P<kind>\w+), please select one of (?P<known>.*)")
_SETTINGS_OF = {
    "OptimizerNames": "optim",
    "SchedulerType": "lr_scheduler_type",
    "IntervalStrategy": "logging_strategy, eval_strategy or save_strategy",
    "SaveStrategy": "save_strategy",
    "HubStrategy": "hub_strategy",
}


def _of_enum(message: str) -> str | None:
    """Rewrite transformers' message about an invalid choice to name the setting and the nearest value; None for others."""
    found = _ENUMS.fullmatch(message.strip())
    if found is None or found["kind"] not in _SETTINGS_OF:
        return None
    known = re.findall(r"'([^']*)'", found["known"])
    near = nearest(found["value"], known)
    return f"`{_SETTINGS_OF[found['kind']]}` is {found['value']!r}{near} Choose one of {', '.join(known)}."
