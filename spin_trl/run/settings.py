"""The settings of a run, frozen at its start: what differs from the defaults, in a recipe that can be read again."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments

from ..config import credentials
from ..errors import RunDirectoryError
from ..files import write_atomically
from .directory import RunDirectory, home_expanded
from .ownership import RECIPE
from .run import Run

FREE = frozenset(
    {
        "accelerate_config",
        "bad_rows",
        "bad_rows_max",
        "baseline",
        "baseline_label_smoothing",
        "dataloader_num_workers",
        "degeneration_stop",
        "degeneration_warn",
        "disable_tqdm",
        "existing_run",
        "fall_back_lr_scale",
        "hub_always_push",
        "hub_backup",
        "hub_dataset_id",
        "hub_license",
        "hub_model_id",
        "hub_private_repo",
        "hub_strategy",
        "keep_iterations",
        "log_level",
        "logging_dir",
        "num_iterations",
        "on_regression",
        "output_dir",
        "patience",
        "precompute_ref_batch_size",
        "push_generations",
        "push_to_hub",
        "report_to",
        "run_dir",
        "run_name",
        "save_total_limit",
        "shared_prefix",
        "stop_at_plateau",
    }
)
"""Settings that may change when a run is continued: they decide how it is played and shown, not what comes out."""

OF_THE_DATA = frozenset(
    {
        "dataset_config",
        "dataset_name",
        "dataset_revision",
        "dataset_train_split",
        "held_out_config",
        "held_out_name",
        "held_out_split",
    }
)
"""Settings that say where data comes from. Whether it is the same data is seen by its digest."""

OF_THE_MODEL = frozenset({"model_name_or_path", "model_revision"})
"""Settings that say where the model comes from. Whether it is the same one is seen by its digest."""

PATHS = frozenset(
    {
        "accelerate_config",
        "accelerator_config",
        "dataset_name",
        "deepspeed",
        "fsdp_config",
        "held_out_name",
        "model_name_or_path",
    }
)
"""Settings that may name a file or a folder."""


def differences_from_defaults(*configs: Any) -> dict[str, Any]:
    """The settings of dataclasses that are not at their defaults, as YAML can hold them.

    Defaults are those of an instance made without arguments, so that values that a dataclass derives from others count
    as what they become.
    """
    found: dict[str, Any] = {}
    for config in configs:
        default = _default(config)
        for field in dataclasses.fields(config):
            if field.init and hasattr(config, field.name) and not credentials.is_name(field.name):
                value, usual = _plain(getattr(config, field.name)), _plain(getattr(default, field.name))
                if value != usual:
                    found[field.name] = value
    return found


def _default(config: Any) -> Any:
    if not isinstance(config, TrainingArguments):
        return type(config)()
    # Without `use_cpu`, TRL's default of bfloat16 is refused on a machine that has no GPU.
    with accelerates_state_kept():
        default = type(config)(use_cpu=True)
    default.use_cpu = False
    return default


@contextlib.contextmanager
def accelerates_state_kept() -> Iterator[None]:
    """Restore accelerate's state of this process afterwards.

    TrainingArguments set the device of the whole process when they are made: with `use_cpu`, a run on a GPU would go to the
    CPU. Under a launcher the process group is there already, made for the run's own arguments, and is not touched.
    """
    states = (PartialState, AcceleratorState)
    kept = [dict(state._shared_state) for state in states]
    try:
        yield
    finally:
        for state, before in zip(states, kept, strict=True):
            state._shared_state.clear()
            state._shared_state.update(before)


def python_settings(run: Run) -> dict[str, Any]:
    """Settings of a run that was started from Python; what YAML can't say stands under `python`."""
    objects = {
        "model": run.model,
        "peft_config": _plain(run.peft_config.to_dict()) if run.peft_config is not None else None,
        "quantization_config": _plain(run.quantization_config.to_dict())
        if run.quantization_config is not None
        else None,
    }
    return {**differences_from_defaults(run.args, run.play, run.start), "python": objects}


def freeze(directory: RunDirectory, settings: dict[str, Any], is_same_model: Callable[[], bool] | None = None) -> None:
    """Write the settings into the run directory, or see to it that they are those of the run that is there.

    Data and model may have other names now: what counts is what they hold. Data is compared when it is prepared.

    Args:
        directory: of the run.
        settings: of now.
        is_same_model: tells whether the model that is named now is the one that the run began with. It is asked only if the
            name or the revision is another one. None: it is not.

    Raises:
        RunDirectoryError: the directory belongs to a run with other settings; the message names them.
    """
    if not directory.recipe.exists():
        _write(directory, settings)
        return
    frozen = frozen_settings(directory)
    changed = differences(frozen, settings, directory.ownership.paths_from())
    if directory.ownership.has_begun():
        changed = [name for name in changed if name not in OF_THE_DATA]
        of_the_model = [name for name in changed if name in OF_THE_MODEL or _is_model_alone(name, frozen, settings)]
        # Loading and hashing a model takes a while, so everything else is compared before.
        if of_the_model and of_the_model == changed and is_same_model is not None and is_same_model():
            changed = []
    if changed:
        found = "; ".join(f"{name}: {frozen.get(name)!r} there, {settings.get(name)!r} now" for name in changed)
        raise RunDirectoryError(
            f"{directory.path} belongs to a run with other settings ({found}). Use another `run_dir`, restore the settings, "
            "or set `existing_run: overwrite`."
        )


def frozen_settings(directory: RunDirectory) -> dict[str, Any]:
    """The settings that a run began with.

    Raises:
        RunDirectoryError: they can't be read.
    """
    path = directory.recipe
    try:
        frozen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"{path}, the settings of the run that is there, can't be read: {credentials.yaml_problem(error)}"
        ) from None
    if not isinstance(frozen, dict):
        raise RunDirectoryError(f"{path} holds no settings of a run.")
    credentials.refuse(frozen, path)
    return frozen


def differences(frozen: dict[str, Any], settings: dict[str, Any], paths_from: Path | None = None) -> list[str]:
    """Names of settings that make another run of it.

    Args:
        frozen: what the run began with.
        settings: of now.
        paths_from: folder from which relative paths in the frozen settings are seen; None: the current one.
    """
    # The annealing of IRIS's order ends with the last iteration, so a longer run is another run.
    free = FREE - ({"num_iterations"} if settings.get("iris_schedule") == "geometric" else set())

    def continues(name: str) -> bool:
        before, now = frozen.get(name), settings.get(name)
        return _continues(name, before, now) or (name in PATHS and is_same_path(before, now, paths_from))

    return [name for name in sorted(set(frozen) | set(settings)) if name not in free and not continues(name)]


def renew(directory: RunDirectory, settings: dict[str, Any]) -> None:
    """Write down settings that may change and have: phases that are launched on their own read them there.

    Paths stay as they are written if they still lead to the same places.
    """
    frozen, paths_from = frozen_settings(directory), directory.ownership.paths_from()
    named = PATHS & settings.keys()
    if all(is_same_path(frozen.get(name), settings[name], paths_from) for name in named):
        settings = {**settings, **{name: frozen[name] for name in named & frozen.keys()}}
    else:
        paths_from = None
    if frozen != yaml.safe_load(yaml.safe_dump(settings)):
        _write(directory, settings, paths_from)
    else:
        directory.ownership.see_paths_from(paths_from or Path.cwd())


def is_same_path(before: Any, now: Any, paths_from: Path | None) -> bool:
    """Whether two settings are equal, or name one file or folder.

    Args:
        before: as it was written down.
        now: seen from the current folder.
        paths_from: from where `before` is seen; None: the current folder.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    one, other = home_expanded((paths_from or Path.cwd()) / home_expanded(before)), home_expanded(now)
    try:
        return one.samefile(other)
    except OSError:
        # One of them is no path, like a name on the Hub, or not there any more.
        return before == now


def found_from(paths_from: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Frozen settings with paths that can be used from the current folder.

    Args:
        paths_from: folder from which relative paths are seen.
        settings: as they were written down.
    """
    if paths_from == Path.cwd():
        return settings

    def found(value: Any, *, is_new: bool = False) -> Any:
        is_relative = isinstance(value, str) and value and not value.startswith("~") and not Path(value).is_absolute()
        return str(paths_from / value) if is_relative and (is_new or (paths_from / value).exists()) else value

    settings = {name: found(value) if name in PATHS else value for name, value in settings.items()}
    if "run_dir" in settings:
        settings["run_dir"] = found(settings["run_dir"], is_new=True)
    python = settings.get("python")
    if isinstance(python, dict):
        settings["python"] = {**python, "model": found(python.get("model"))}
    return settings


def _is_model_alone(name: str, frozen: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether it is the name of the model alone that differs in what a run from Python has written down."""
    before, now = frozen.get(name), settings.get(name)
    if name != "python" or not isinstance(before, dict) or not isinstance(now, dict):
        return False
    return {**before, "model": None} == {**now, "model": None}


def _write(directory: RunDirectory, settings: dict[str, Any], paths_from: Path | None = None) -> None:
    path = directory.own(RECIPE)
    directory.ownership.see_paths_from(paths_from or Path.cwd())
    write_atomically(
        path, lambda temporary: temporary.write_text(yaml.safe_dump(settings, sort_keys=True), encoding="utf-8")
    )


def _continues(name: str, before: Any, now: Any) -> bool:
    if name == "per_iteration" and isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        # A longer run has longer lists; what has been played must be the same.
        return all(a == b for key in before for a, b in zip(before[key], now[key], strict=False))
    if name == "model_init_kwargs":
        # A run of version 0.1.0 left a token out of it when it was written down, which may leave an empty mapping.
        return (before or None) == (now or None)
    return before == now


def _plain(value: Any) -> Any:
    """A value as YAML can hold it."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items() if not credentials.is_name(str(key))}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, set):
        return sorted(_plain(part) for part in value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
