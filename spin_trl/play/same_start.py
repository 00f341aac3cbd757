"""Whether a model that has another name now is the one that a run began with, and where its adapters look for it."""

from __future__ import annotations

import os
from pathlib import Path

from ..files import definition_of, home_expanded, read_json
from ..generation.store import STORE_MANIFEST
from ..models.digest import digest
from ..run.adapter_bases import adapter_configs, named_base, set_base
from ..run.directory import RunDirectory
from ..run.journal import DATA, Step
from ..run.run import Run
from ..run.settings import frozen_settings
from ..run.stage import START, Stage
from .generate import at_hand
from .phases import training_plugin


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
    """The digest of θ_0 beside what it has answered, or None: it has not answered yet."""
    stores = (directory.held_out(START) / "sampled", directory.generations(Stage.of(0)))
    manifests = (read_json(store / STORE_MANIFEST) for store in stores)
    return next((found["model"] for found in manifests if found is not None), None)


def point_adapters_at_start(run: Run) -> None:
    """Let the run's adapters find their base where θ_0 is now, if it had another path when they were trained."""
    if not os.path.isdir(run.start_model):
        return
    frozen = frozen_settings(run.directory)
    before = frozen.get("model_name_or_path") or (frozen.get("python") or {}).get("model") or ""
    paths_from = run.directory.ownership.paths_from() or Path.cwd()
    known = {before, str(paths_from / home_expanded(before))}
    own = run.directory.model(START)
    for path in adapter_configs(run.directory):
        base = Path(named_base(path))
        # From another folder a relative path leads elsewhere, maybe to another model.
        if base.is_dir() and (base.is_absolute() or paths_from == Path.cwd()):
            continue
        is_own = Path(run.start_model) == own and base.parts[-2:] == own.parts[-2:]
        if is_own or str(base) in known:
            set_base(path, os.path.abspath(run.start_model))
