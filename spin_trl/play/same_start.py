"""Whether the model that a run begins with is still the one under that name, and where the run's adapters find it."""

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
from ..run.directory import RunDirectory
from ..run.journal import DATA, Step, newest
from ..run.objects import read_object
from ..run.run import Run, device_name
from ..run.settings import frozen_settings
from ..run.stage import START, Stage
from .generate import at_hand
from .phases import training_plugin

logger = logging.getLogger(__name__)

_WAY_OUT = (
    "It says which model the run began with, and the one that is named now has to be compared with that. Restore it from a "
    "backup; or play the run where it was before, with the model under the name that it had: then it is made again."
)
"""Where a store's manifest is damaged before what a run has made is looked at, and mended."""


def is_same_start(run: Run) -> bool:
    """Whether the model that is named now is the θ_0 that the run began with.

    Its weights are hashed and compared with those that answered. If nothing has been answered yet, all that depends on the
    model is its template and tokens.
    """
    known = _digest_of_start(run.directory)
    if known is None:
        prepared = run.done(Step.PREPARE, DATA) or {}
        template = prepared.get("template")
        return run.template().digest(definition_of(template)) == template
    if training_plugin() is not None:  # which would load the model in parts
        return False
    with at_hand(run, run.start_model) as load:
        model, _ = load()
        return digest(model, definition=definition_of(known)) == known


def _digest_of_start(directory: RunDirectory) -> str | None:
    """The digest of θ_0 beside what it has answered, or None: it has not answered yet.

    Raises:
        RunDirectoryError: no list of what it has answered can be read.
    """
    damaged = None
    for store in (directory.held_out(START) / "sampled", directory.generations(Stage.of(0))):
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
    """Raise if the start's name leads to another model than the one that the run began with.

    A start in the run directory is looked at with all that the run has made. Of any other one the files are looked at, by
    their sizes and the times of their last change; where these are others than before, and once wherever the directory was
    moved or copied to, its digest is compared with that of the model that has answered.

    Raises:
        RunDirectoryError: it is another model.
    """
    ownership = run.directory.ownership
    if run.start_model == str(run.directory.model(START)) or training_plugin() is not None:
        return
    before, known, files = ownership.former_place(), ownership.start_files(), _files_of_start(run)
    is_asked = before is not None or (known is not None and files is not None and known != files)
    has_answered = is_asked and _digest_of_start(run.directory) is not None
    if has_answered and not _is_other_device(run) and not is_same_start(run):
        raise RunDirectoryError(_other_start(run, before, known or {}, files or {}))
    ownership.see_start(files)


def _other_start(
    run: Run, before: Path | None, known: Mapping[str, Sequence[int]], files: Mapping[str, Sequence[int]]
) -> str:
    if before is not None:
        return (
            f"{run.directory.path} was at {before} before. Here {run.model} is another model than the one that the run "
            "began with. Bring that one, and name it with `--model_name_or_path`."
        )
    changed = sorted(name for name in known.keys() | files.keys() if known.get(name) != files.get(name))
    return (
        f"{run.model} has other weights than when the run in {run.directory.path} began: {', '.join(changed[:3])} changed "
        "since. Put the model back that was there, or start a new run, in another `run_dir`."
    )


def _files_of_start(run: Run) -> dict[str, list[int]] | None:
    """Sizes and times of the weights of θ_0, and of the base of an adapter, by name; None where they are in no folder.

    A name on the Hub stands for a commit, which the cache keeps as it is.
    """
    if not os.path.isdir(run.start_model):
        return None
    found = stamps(Path(run.start_model), "*.safetensors")
    if is_adapter(run.start_model) and os.path.isdir(base := base_of(run.start_model)):
        found |= {f"{Path(base).name}/{name}": stamp for name, stamp in stamps(Path(base), "*.safetensors").items()}
    return found


def _is_other_device(run: Run) -> bool:
    """Whether quantised weights are laid out in another way here than where the run has answered; that is said."""
    device = newest(run.journal.entries(), Step.EVALUATE, START).get("device")
    if run.quantization_config is None or device in (None, device_name(PartialState().device)):
        return False
    logger.warning("%s is quantised, and %s is another device: its weights are not compared.", run.model, device)
    return True


def point_adapters_at_start(run: Run) -> None:
    """Let the run's adapters find their base where θ_0 is now, if it had another path when they were trained."""
    own = run.directory.model(START)
    if not os.path.isdir(run.start_model) or Path(run.start_model) == own:
        return  # a start in the run directory moves with it
    frozen = frozen_settings(run.directory)
    before = frozen.get("model_name_or_path") or (frozen.get("python") or {}).get("model") or ""
    paths_from = run.directory.ownership.paths_from() or Path.cwd()
    known = {before, str(paths_from / home_expanded(before))}
    for path in adapter_configs(run.directory):
        base = Path(named_base(path))
        # From another folder a relative path leads elsewhere, maybe to another model.
        if base.is_dir() and (base.is_absolute() or paths_from == Path.cwd()):
            continue
        if str(base) in known:
            set_base(path, os.path.abspath(run.start_model))
