"""The settings of a run, frozen at its start: what differs from the defaults, in a recipe that can be read again."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments

from ..errors import RecipeError, RunDirectoryError
from ..files import write_atomically
from .directory import RunDirectory
from .run import Run

FREE = frozenset(
    {
        "accelerate_config",
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

SECRET = frozenset({"hub_token", "push_to_hub_token", "token", "use_auth_token"})
"""Settings that are never written down."""

SECRET_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"})
"""Environment variables that hold a token, which a recipe's `env` must not set."""


def refuse_secrets(names: Iterable[str]) -> None:
    """Raise if a setting or an option is a token: it would stand in a file, or in the list of processes.

    Args:
        names: of settings, or command-line arguments.

    Raises:
        RecipeError: one is. What it holds is not repeated.
    """
    for name in (argument.partition("=")[0].removeprefix("--") for argument in names):
        if name in SECRET or name in SECRET_VARIABLES:
            raise RecipeError(
                f"`{name}` can't be a setting: a token does not belong into a recipe or onto a command line, where others "
                "can read it. Set `HF_TOKEN` in the environment, or log in once with `hf auth login`."
            )


def differences_from_defaults(*configs: Any) -> dict[str, Any]:
    """The settings of dataclasses that are not at their defaults, as YAML can hold them.

    Defaults are those of an instance made without arguments, so that values that a dataclass derives from others count
    as what they become.
    """
    found: dict[str, Any] = {}
    for config in configs:
        default = _default(config)
        for field in dataclasses.fields(config):
            if field.init and hasattr(config, field.name) and field.name not in SECRET:
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


def freeze(directory: RunDirectory, settings: dict[str, Any]) -> None:
    """Write the settings into the run directory, or see to it that they are those of the run that is there.

    Raises:
        RunDirectoryError: the directory belongs to a run with other settings; the message names them.
    """
    path = directory.recipe
    if not path.exists():
        _write(path, settings)
        return
    try:
        frozen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{path}, the settings of the run that is there, can't be read: {error}") from error
    if not isinstance(frozen, dict):
        raise RunDirectoryError(f"{path} holds no settings of a run.")
    # The annealing of IRIS's order ends with the last iteration, so a longer run is another run.
    free = FREE - ({"num_iterations"} if settings.get("iris_schedule") == "geometric" else set())
    changed = [
        f"{name}: {frozen.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted(set(frozen) | set(settings))
        if name not in free and not _continues(name, frozen.get(name), settings.get(name))
    ]
    if changed:
        raise RunDirectoryError(
            f"{directory.path} belongs to a run with other settings ({'; '.join(changed)}). Use another `run_dir`, "
            "restore the settings, or set `existing_run: overwrite`."
        )


def renew(directory: RunDirectory, settings: dict[str, Any]) -> None:
    """Write down settings that may change and have: phases that are launched on their own read them there."""
    if yaml.safe_load(directory.recipe.read_text(encoding="utf-8")) != yaml.safe_load(yaml.safe_dump(settings)):
        _write(directory.recipe, settings)


def _write(path: Path, settings: dict[str, Any]) -> None:
    write_atomically(
        path, lambda temporary: temporary.write_text(yaml.safe_dump(settings, sort_keys=True), encoding="utf-8")
    )


def _continues(name: str, before: Any, now: Any) -> bool:
    if name == "per_iteration" and isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        # A longer run has longer lists; what has been played must be the same.
        return all(a == b for key in before for a, b in zip(before[key], now[key], strict=False))
    return before == now


def _plain(value: Any) -> Any:
    """A value as YAML can hold it."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items() if key not in SECRET}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, set):
        return sorted(_plain(part) for part in value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
