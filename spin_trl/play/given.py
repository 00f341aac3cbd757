"""The model that a run begins with: one that was passed from Python is kept, one that has another name now is recognised.

What was passed, also with an adapter, becomes folders, from which every phase loads.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config.iteration import SPINConfig
from ..errors import DataError, RecipeError, RunDirectoryError, noted, refuse_unplayable
from ..files import definition_of, home_expanded, whole_folder
from ..generation.store import STORE_MANIFEST
from ..models.adapters import Policy, output_layer_refusals, second_adapter, without_adapter
from ..models.digest import FROZEN_ADAPTER, base_tensors, digest
from ..models.lineage import model_origin
from ..models.policy import load_policy, load_tokenizer
from ..run.adapter_bases import adapter_configs, name_base_absolutely, named_base, set_base
from ..run.directory import RunDirectory
from ..run.journal import DATA, Step, newest
from ..run.objects import read_object
from ..run.run import Run, device_name
from ..run.settings import frozen_settings
from ..run.stage import START, Stage
from ..training.arguments import unnamed
from ..training.supervised import save_model
from .generate import at_hand
from .phases import training_plugin

logger = logging.getLogger(__name__)

_WAY_OUT = (
    "It says which model the run began with, and the one that is named now has to be compared with that. Restore it from a "
    "backup; or play the run where it was before, with the model under the name that it had: then it is made again."
)
"""Where a store's manifest is damaged before what a run has made is looked at, and mended."""

BASE = "base"
"""Folder beside the start's model, for a base model that is on no disk."""


def refusals(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, args: SPINConfig, peft_config: Any
) -> list[str]:
    """Why a model that was passed from Python can't be a run's start, as far as that is seen without saving it.

    Args:
        model: the model.
        tokenizer: that was passed with it, or None.
        args: how models are loaded.
        peft_config: of a new adapter, or None.
    """
    found = [*second_adapter(model, peft_config), *output_layer_refusals(model)]
    if isinstance(model, PeftModel):
        found += _adapter_names(model)
    if tokenizer is None:
        noted(found, lambda: tokenizer_of(model, args))
    return found


def tokenizer_of(model: PreTrainedModel | PeftModel, args: SPINConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that was passed without one.

    Raises:
        RecipeError: the model was made from a configuration, so that there is no place to look for one.
        DataError: there is none where the model was loaded from.
    """
    refuse_unplayable(unnamed(model, None))
    return load_tokenizer(model.config._name_or_path, args)


def _adapter_names(model: PeftModel) -> list[str]:
    """Other adapters than the one that is trained."""
    others = sorted(set(model.peft_config) - {"default", FROZEN_ADAPTER})
    if not others and "default" in model.peft_config:
        return []
    return [
        f"`model` has the adapters {sorted(model.peft_config)}; self-play trains one that is named 'default', as PEFT names "
        "it unless told otherwise. Load it under that name (`adapter_name`), and delete the others."
    ]


def keep_given(run: Run, model: Policy) -> None:
    """A model that was passed as an object becomes a folder, from which every phase loads."""
    known = run.done(Step.GIVEN, START)
    found = digest(model, definition=definition_of(None if known is None else known["digest"]))
    if known is None:
        tokenizer = run.processing_class or tokenizer_of(model, run.args)
        folder = run.directory.own(START) / "model"
        if isinstance(model, PeftModel):
            keep_adapter(model, tokenizer, folder, run.args)
        else:
            save_model(model, tokenizer, folder)
        name = getattr(model.config, "_name_or_path", "")
        origin = {"origin": model_origin(name).as_dict()} if name else {}
        run.journal.append(Step.GIVEN, START, digest=found, **origin)
    elif known["digest"] != found:
        raise RunDirectoryError(
            f"{run.directory.path} was started from another `model` than the one given now. Pass that one, or use "
            "another `run_dir`."
        )


def keep_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, args: SPINConfig) -> None:
    """Save an adapter with its tokenizer, whole or not at all, and its base model where that can't be loaded by its name.

    What was saved is loaded again, and must have the weights that are in memory.

    Args:
        model: with one adapter, named `default`.
        tokenizer: of the model.
        folder: where the adapter goes. The base model goes into `base` beside it.
        args: how models are loaded.

    Raises:
        RecipeError: there are other adapters, or the model can't be loaded again from what PEFT saves of it.
    """
    refuse_unplayable(_adapter_names(model))
    known = digest(model)
    _save_adapter(model, tokenizer, folder, None)
    if _digest_of(folder, args) == known:
        return
    shutil.rmtree(folder)
    base = folder.with_name(BASE)
    with whole_folder(base) as unfinished:
        without_adapter(model).save_pretrained(unfinished, state_dict=base_tensors(model))
        tokenizer.save_pretrained(unfinished)
    _save_adapter(model, tokenizer, folder, base)
    if _digest_of(folder, args) != known:
        shutil.rmtree(folder)
        shutil.rmtree(base)
        raise RecipeError(
            "`model` is a PEFT model that can't be loaded again as it is in memory from what PEFT saves of it: its base "
            "model was changed, or is loaded in another precision. Merge the adapter (`model.merge_and_unload()`), or save "
            "both, and pass the adapter's folder."
        )


def _save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: Path | None) -> None:
    config = model.peft_config["default"]
    name = config.base_model_name_or_path
    if base is not None:
        config.base_model_name_or_path = str(base)
    try:
        with whole_folder(folder) as unfinished:
            model.save_pretrained(str(unfinished), selected_adapters=["default"])
            tokenizer.save_pretrained(unfinished)
            name_base_absolutely(unfinished)
    finally:
        config.base_model_name_or_path = name


def _digest_of(folder: Path, args: SPINConfig) -> str | None:
    """The digest of what was saved, or None: it can't be loaded."""
    try:
        return digest(load_policy(folder, args))
    except DataError:
        return None


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


def check_moved(run: Run) -> None:
    """Raise if a run directory has been moved or copied to where its start's name leads to another model.

    A start in the directory itself has come along. The digest of any other one is compared with that of the model that the
    run began with, once a move.

    Raises:
        RunDirectoryError: it is another model.
    """
    before = run.directory.ownership.former_place()
    if before is None or run.start_model == str(run.directory.model(START)) or training_plugin() is not None:
        return
    if _digest_of_start(run.directory) is None:
        return
    entries = run.journal.entries()
    device = newest(entries, Step.EVALUATE, START).get("device")
    if run.quantization_config is not None and device not in (None, device_name(PartialState().device)):
        # Quantised weights are laid out in another way on another kind of device.
        logger.warning("%s is quantised, and %s is another device: its weights are not compared.", run.model, device)
        return
    if not is_same_start(run):
        raise RunDirectoryError(
            f"{run.directory.path} was at {before} before. Here {run.model} is another model than the one that the run "
            "began with. Bring that one, and name it with `--model_name_or_path`."
        )


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
