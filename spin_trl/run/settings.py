"""The settings of a run, frozen at its start: those that differ from the defaults, as a recipe that can be read again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from ..config import credentials
from ..config.data import DataConfig
from ..config.engines import AUTO, TRANSFORMERS
from ..config.iteration import AUTO_BATCH, GENERATION_BATCH
from ..config.paths import is_same_path
from ..config.plain import differences_from_defaults, plain
from ..config.rubric import changed_criteria
from ..config.traits import FREE, PATHS
from ..config.yaml_files import read_yaml
from ..errors import RunDirectoryError
from ..files import write_text
from ..objectives.registry import LOSS_TYPES
from .directory import RunDirectory
from .ownership import RECIPE
from .run import Run
from .stage import DPO, Stage

OF_THE_DATA = frozenset(
    one.name
    for one in dataclasses.fields(DataConfig)
    if one.name.startswith(("dataset_", "held_out_", "test_", "retain_", "dpo_"))
)
"""Settings for the source of the data. Whether the data is the same is determined by its digest."""

OF_DPO_ON_TOP = frozenset({"dpo_args", "dpo_max"})
"""Settings of DPO on top, which may change until it has trained a model."""

OF_THE_MODEL = frozenset({"model_name_or_path", "model_revision"})
"""Settings for the source of the model. Whether the model is the same is determined by its digest."""


BATCH_SIZE = "generation_batch_size"
"""The setting that is frozen as the number that it has become ([`freeze_batch_size`])."""


def python_settings(run: Run) -> dict[str, Any]:
    """Return the settings of a run started from Python; those that YAML can't express are under the key `python`."""
    objects: dict[str, Any] = {"model": run.model}
    for name in ("peft_config", "sft_peft_config", "quantization_config"):
        config = getattr(run, name)
        if name == "sft_peft_config" and config == run.peft_config:
            continue  # only written if SFT has an adapter of its own
        objects[name] = None if config is None else plain(config.to_dict())
    return {**differences_from_defaults(run.args, run.play, run.start), "python": objects}


def freeze(
    directory: RunDirectory,
    settings: dict[str, Any],
    is_same_model: Callable[[], bool] | None = None,
    *,
    asked: Collection[str] = (),
    note: str = "",
) -> None:
    """Write the settings to the run directory, or check that they match those of the run that is already there.

    The names of the data and the model may change: their contents are compared instead, those of the data when it is
    prepared.

    Args:
        directory: run directory.
        settings: current settings.
        is_same_model: function that returns whether the model named now is the one that the run began with. It is called
            only if the name or the revision has changed. None: a changed model is always refused.
        asked: names of settings that the user has asked to change, and that may change.
        note: text for a comment at the top of the file, if the settings are written for the first time.

    Raises:
        RunDirectoryError: if the directory belongs to a run with other settings; the message names them.
    """
    if not directory.recipe.exists():
        _write_settings(directory, settings, note=note)
        return
    frozen = frozen_settings(directory)
    changed = [name for name in differences(frozen, settings, directory.ownership.paths_from()) if name not in asked]
    if directory.ownership.has_begun():
        changed = [name for name in changed if name not in OF_THE_DATA]
        if not any(stage.arm == DPO and _has_begun(directory, stage) for stage in directory.stages()):
            changed = [name for name in changed if name not in OF_DPO_ON_TOP]
        of_the_model = [name for name in changed if name in OF_THE_MODEL or _is_model_alone(name, frozen, settings)]
        # Loading and hashing a model takes a while, so everything else is compared first.
        if of_the_model and of_the_model == changed and is_same_model is not None and is_same_model():
            changed = []
    if changed:
        found = "; ".join(_change(name, frozen.get(name), settings.get(name)) for name in changed)
        name_it = f" To go on with another engine, name it (`--engine {TRANSFORMERS}`)." if "engine" in changed else ""
        raise RunDirectoryError(
            f"{directory.path} belongs to a run with other settings ({found}). Use another `run_dir`, restore the settings, "
            f"or set `existing_run: overwrite`.{name_it}"
        )


def _change(name: str, before: Any, now: Any) -> str:
    """Describe how a setting has changed; a rubric, which is long, by its criteria."""
    if name == "rubric" and isinstance(before, dict) and isinstance(now, dict):
        return f"{name}: {changed_criteria(before, now)}"
    return f"{name}: was {before!r}, now {now!r}"


def _has_begun(directory: RunDirectory, stage: Stage) -> bool:
    return directory.model(stage).exists() or directory.training(stage).exists()


def frozen_settings(directory: RunDirectory) -> dict[str, Any]:
    """Read the settings that a run began with.

    Raises:
        RunDirectoryError: if they can't be read.
    """
    path = directory.recipe
    frozen = read_yaml(path, f"{path}, the settings of the existing run,", RunDirectoryError)
    credentials.refuse_credentials(frozen, path)
    return frozen


def kept_engine(directory: RunDirectory, existing_run: str) -> str | None:
    """Return the engine that a run was begun with; None if it has not begun, or is to be overwritten.

    Args:
        directory: run directory.
        existing_run: how to treat a run that is already there: the setting of this name.

    Raises:
        RunDirectoryError: if the settings can't be read.
    """
    if existing_run == "overwrite" or not directory.ownership.has_begun() or not directory.recipe.is_file():
        return None
    engine = str(frozen_settings(directory).get("engine", TRANSFORMERS))
    return engine if engine != AUTO else None  # an arm of a comparison whose start was shared has not chosen yet


def differences(frozen: dict[str, Any], settings: dict[str, Any], paths_from: Path | None = None) -> list[str]:
    """Return the names of changed settings that would make it a different run.

    Args:
        frozen: settings that the run began with.
        settings: current settings.
        paths_from: folder that relative paths in the frozen settings refer to; None: the current one.
    """
    has_length = any(objective.depends_on_length(objective.own(settings)) for objective in LOSS_TYPES.values())
    free = FREE - ({"num_iterations"} if has_length else set())

    def continues(name: str) -> bool:
        before, now = frozen.get(name), settings.get(name)
        return _continues(name, before, now) or (name in PATHS and is_same_path(before, now, paths_from))

    return [name for name in sorted(set(frozen) | set(settings)) if name not in free and not continues(name)]


def renew(directory: RunDirectory, settings: dict[str, Any]) -> None:
    """Update the frozen settings with changes that are allowed, for phases that are launched separately.

    Paths keep their spelling if they still lead to the same places.
    """
    frozen, paths_from = frozen_settings(directory), directory.ownership.paths_from()
    if settings.get("engine") == AUTO and directory.ownership.has_begun():  # what was chosen stays
        others = {name: value for name, value in settings.items() if name != "engine"}
        settings = others | ({"engine": frozen["engine"]} if "engine" in frozen else {})
    if settings.get(BATCH_SIZE) == AUTO_BATCH:  # if the run has computed its number, it keeps that
        settings = _with_batch_size(settings, frozen.get(BATCH_SIZE, GENERATION_BATCH))
    named = PATHS & settings.keys()
    if all(is_same_path(frozen.get(name), settings[name], paths_from) for name in named):
        settings = {**settings, **{name: frozen[name] for name in named & frozen.keys()}}
    else:
        paths_from = None
    if frozen != yaml.safe_load(yaml.safe_dump(settings)):
        is_same_engine = frozen.get("engine") == settings.get("engine")
        _write_settings(directory, settings, paths_from, note=_note_in(directory) if is_same_engine else "")
    else:
        directory.ownership.see_paths_from(paths_from or Path.cwd())


def frozen_batch_size(directory: RunDirectory) -> int | str:
    """Return a run's frozen `generation_batch_size`: a number, or `auto` until [`freeze_batch_size`] has been called.

    Raises:
        RunDirectoryError: if the settings can't be read.
    """
    found: int | str = frozen_settings(directory).get(BATCH_SIZE, GENERATION_BATCH)
    return found


def freeze_batch_size(directory: RunDirectory, size: int) -> None:
    """Replace `generation_batch_size: auto` in the frozen settings, since the sampled responses depend on the number.

    Raises:
        RunDirectoryError: if the settings can't be read.
    """
    settings = _with_batch_size(frozen_settings(directory), size)
    _write_settings(directory, settings, directory.ownership.paths_from())


def _with_batch_size(settings: dict[str, Any], size: int | str) -> dict[str, Any]:
    """Return settings with another `generation_batch_size`; like all settings, it is left out if it is the default."""
    others = {name: value for name, value in settings.items() if name != BATCH_SIZE}
    return others if size == GENERATION_BATCH else {**others, BATCH_SIZE: size}


def _is_model_alone(name: str, frozen: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Return whether, in the frozen settings of a run from Python, only the name of the model has changed."""
    before, now = frozen.get(name), settings.get(name)
    if name != "python" or not isinstance(before, dict) or not isinstance(now, dict):
        return False
    return {**before, "model": None} == {**now, "model": None}


def _write_settings(
    directory: RunDirectory, settings: dict[str, Any], paths_from: Path | None = None, *, note: str = ""
) -> None:
    path = directory.own(RECIPE)
    directory.ownership.see_paths_from(paths_from or Path.cwd())
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    write_text(path, comment + yaml.safe_dump(settings, sort_keys=True))


def _note_in(directory: RunDirectory) -> str:
    """Return the text of the comment at the top of the frozen settings."""
    lines = directory.recipe.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return "\n".join(line.removeprefix("# ") for line in comment)


def _continues(name: str, before: Any, now: Any) -> bool:
    if name == "engine" and AUTO in (before, now):
        return True  # it keeps what was chosen, or has not chosen yet
    if name == "engine":  # which settings may name though it is the default
        return (before or TRANSFORMERS) == (now or TRANSFORMERS)
    if name == "per_iteration" and isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        # A longer run has longer lists; the values of the iterations that both have must be equal.
        return all(a == b for key in before for a, b in zip(before[key], now[key], strict=False))
    if name == BATCH_SIZE and AUTO_BATCH in (before, now):
        return True  # nothing has been sampled yet, or the run keeps the number that it has
    if name == "model_init_kwargs":
        # Version 0.1.0 dropped tokens when writing the settings, which may leave an empty mapping.
        return (before or None) == (now or None)
    return before == now
