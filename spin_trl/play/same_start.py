"""Checks that the model a run started from is still the one under its name, and tells the run's adapters where it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState

from ..errors import RunDirectoryError
from ..files import definition_of, home_expanded, stamps
from ..generation.store import STORE_MANIFEST
from ..models.adapters import base_of, is_adapter
from ..models.digest import digest
from ..run.adapter_bases import adapter_configs, named_base, set_base
from ..run.journal import DATA, Step, newest
from ..run.objects import read_object
from ..run.run import Run, device_name
from ..run.settings import frozen_settings
from ..run.stage import Stage
from .answering.at_hand import at_hand
from .plugin import training_plugin

logger = logging.getLogger(__name__)

_WAY_OUT = (
    "It identifies the model the run started from, which is needed to check the model that is named now. Restore the file "
    "from a backup; or resume the run in its former place, with the model under its former name: then the file is written "
    "again."
)
"""Way out of a damaged manifest of a generation store, before the run's files are checked and repaired."""


def is_same_start(run: Run) -> bool:
    """Return whether the model that is named now is the one that the run was given when it was started.

    Its weights are hashed and compared with those of the model that answered. If nothing has been answered yet, only the
    prepared data depends on the model, so the template and the tokens are compared.
    """
    known = _digest_of_given(run)
    if known is None:
        prepared = run.done(Step.PREPARE, DATA) or {}
        template = prepared.get("template")
        return run.template().digest(definition_of(template)) == template
    if training_plugin() is not None:  # it would shard the model
        return False
    with at_hand(run, run.given_model) as policy:
        model, _ = policy()
        return digest(model, definition=definition_of(known)) == known


def _digest_of_given(run: Run) -> str | None:
    """Return the digest of the given model that is stored with its answers, or None if it has not answered yet.

    Raises:
        RunDirectoryError: if the manifests of its answers are damaged.
    """
    directory, stage = run.directory, run.given_stage
    answers = [
        directory.held_out(stage) / "sampled",
        *([directory.generations(Stage.of(0))] if stage.is_start else []),
    ]
    damaged = None
    for store in answers:
        path = store / STORE_MANIFEST
        try:
            found = read_object(path, _WAY_OUT)
            if path.is_file() and not isinstance(found.get("model"), str):
                raise RunDirectoryError(f"{path} is damaged: `model` is {found.get('model')!r:.60}. {_WAY_OUT}")
        except RunDirectoryError as error:
            damaged = error
            continue
        if found:
            return found["model"]
    if damaged is not None:
        raise damaged
    return None


def check_same_start(run: Run) -> None:
    """Raise if the given model's name now refers to a different model than the one that the run started from.

    A model inside the run directory is checked along with the run's other files. For any other one, the sizes and
    modification times of its files are checked; if they have changed, and once after the directory was moved or copied, its
    digest is compared with that of the model that answered.

    Raises:
        RunDirectoryError: if it is a different model.
    """
    ownership = run.directory.ownership
    if run.given_model == str(run.directory.model(run.given_stage)) or training_plugin() is not None:
        return
    before, known, files = ownership.former_place(), ownership.start_files(), _files_of_start(run)
    is_asked = before is not None or (known is not None and files is not None and known != files)
    has_answered = is_asked and _digest_of_given(run) is not None
    if has_answered and not _is_other_device(run) and not is_same_start(run):
        raise RunDirectoryError(_other_start(run, before, known or {}, files or {}))
    ownership.see_start(files)


def _other_start(
    run: Run, before: Path | None, known: Mapping[str, Sequence[int]], files: Mapping[str, Sequence[int]]
) -> str:
    if before is not None:
        return (
            f"{run.directory.path} was moved from {before}, and {run.model} is not the model that the run started from. "
            "Copy the original model here, and name it with `--model_name_or_path`."
        )
    changed = sorted(name for name in known.keys() | files.keys() if known.get(name) != files.get(name))
    return (
        f"The weights of {run.model} have changed since the run in {run.directory.path} was started: "
        f"{', '.join(changed[:3])}. Restore the original model, or start a new run in another `run_dir`."
    )


def _files_of_start(run: Run) -> dict[str, list[int]] | None:
    """Return sizes and times of the given model's weight files, and of an adapter's base, by name; None if it has no folder.

    A name on the Hub stands for a commit, which does not change in the cache.
    """
    if not os.path.isdir(run.given_model):
        return None
    found = stamps(Path(run.given_model), "*.safetensors")
    if is_adapter(run.given_model) and os.path.isdir(base := base_of(run.given_model)):
        found |= {f"{Path(base).name}/{name}": stamp for name, stamp in stamps(Path(base), "*.safetensors").items()}
    return found


def _is_other_device(run: Run) -> bool:
    """Return whether quantised weights may be laid out differently here than where the run answered, and warn if so."""
    device = newest(run.journal.entries(), Step.EVALUATE, run.given_stage).get("device")
    if run.quantization_config is None or device in (None, device_name(PartialState().device)):
        return False
    logger.warning(
        "%s is quantised and was measured on another device (%s), so its weights are not compared.", run.model, device
    )
    return True


def point_adapters_at_start(run: Run) -> None:
    """Point the run's adapters to where the given model is now, if it had another path when they were trained."""
    own = run.directory.model(run.given_stage)
    if not os.path.isdir(run.given_model) or Path(run.given_model) == own:
        return  # a model inside the run directory moves with it
    frozen = frozen_settings(run.directory)
    before = frozen.get("model_name_or_path") or (frozen.get("python") or {}).get("model") or ""
    paths_from = run.directory.ownership.paths_from() or Path.cwd()
    known = {before, str(paths_from / home_expanded(before))}
    for path in adapter_configs(run.directory):
        base = Path(named_base(path))
        # From another working directory, a relative path may lead to another model.
        if base.is_dir() and (base.is_absolute() or paths_from == Path.cwd()):
            continue
        if str(base) in known:
            set_base(path, os.path.abspath(run.given_model))
