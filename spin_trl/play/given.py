"""Saves the model that a run starts from if it was passed as a Python object.

The model, with or without an adapter, is saved to folders from which every phase loads it.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config.iteration import SPINConfig
from ..errors import DataError, RecipeError, RunDirectoryError, noted, refuse_unplayable
from ..files import definition_of, whole_folder
from ..models.adapters import Policy, output_layer_refusals, second_adapter, without_adapter
from ..models.digest import FROZEN_ADAPTERS, base_tensors, digest
from ..models.lineage import model_origin
from ..models.policy import load_policy, load_tokenizer
from ..run.adapter_bases import name_base_absolutely
from ..run.journal import Step
from ..run.run import Run
from ..training.arguments import unnamed
from ..training.supervised import save_model

logger = logging.getLogger(__name__)

BASE_FOLDER = "base"
"""Folder next to the start's model for a base model that can't be loaded by its name."""


def refusals(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, args: SPINConfig, peft_config: Any
) -> list[str]:
    """Return why a model that was passed from Python can't be a run's start, as far as can be told without saving it.

    Args:
        model: the model.
        tokenizer: tokenizer that was passed with it, or None.
        args: how models are loaded.
        peft_config: configuration of a new adapter, or None.
    """
    found = [*second_adapter(model, peft_config), *output_layer_refusals(model)]
    if isinstance(model, PeftModel):
        found += _adapter_names(model)
    if tokenizer is None:
        noted(found, lambda: tokenizer_of(model, args))
    return found


def tokenizer_of(model: PreTrainedModel | PeftModel, args: SPINConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model that was passed without one.

    Raises:
        RecipeError: if the model was built from a configuration, so it has no place to load a tokenizer from.
        DataError: if there is no tokenizer where the model was loaded from.
    """
    refuse_unplayable(unnamed(model, None))
    return load_tokenizer(model.config._name_or_path, args)


def _adapter_names(model: PeftModel) -> list[str]:
    """Return why the model's adapters can't be used: self-play trains a single one, named 'default'."""
    others = sorted(set(model.peft_config) - {"default", *FROZEN_ADAPTERS})
    if not others and "default" in model.peft_config:
        return []
    return [
        f"`model` has the adapters {sorted(model.peft_config)}; self-play trains a single adapter named 'default', PEFT's "
        "default name. Load it under that name (`adapter_name`), and delete the others."
    ]


def keep_given(run: Run, model: Policy) -> None:
    """Save a model that was passed as an object to a folder, from which every phase loads it.

    Raises:
        RunDirectoryError: if the run was started from another model.
    """
    known = run.done(Step.GIVEN, run.given_stage)
    found = digest(model, definition=definition_of(None if known is None else known["digest"]))
    if known is None:
        tokenizer = run.processing_class or tokenizer_of(model, run.args)
        folder = run.directory.own(run.given_stage) / "model"
        if isinstance(model, PeftModel):
            keep_adapter(model, tokenizer, folder, run.args)
        else:
            save_model(model, tokenizer, folder)
        name = getattr(model.config, "_name_or_path", "")
        origin = {"origin": model_origin(name).as_dict()} if name else {}
        run.journal.append(Step.GIVEN, run.given_stage, digest=found, **origin)
    elif known["digest"] != found:
        raise RunDirectoryError(
            f"{run.directory.path} was started from a different `model`. Pass the original one, or use another `run_dir`."
        )


def keep_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, args: SPINConfig) -> None:
    """Save an adapter with its tokenizer, atomically, and its base model if that can't be loaded by its name.

    The saved model is loaded again to check that its weights equal those in memory.

    Args:
        model: model with one adapter, named `default`.
        tokenizer: the model's tokenizer.
        folder: folder for the adapter. The base model is saved to `base` next to it.
        args: how models are loaded.

    Raises:
        RecipeError: if there are other adapters, or the model PEFT saved does not load as the model in memory.
    """
    refuse_unplayable(_adapter_names(model))
    known = digest(model)
    _save_adapter(model, tokenizer, folder, None)
    if _digest_of(folder, args) == known:
        return
    shutil.rmtree(folder)
    base = folder.with_name(BASE_FOLDER)
    with whole_folder(base) as unfinished:
        without_adapter(model).save_pretrained(unfinished, state_dict=base_tensors(model))
        tokenizer.save_pretrained(unfinished)
    _save_adapter(model, tokenizer, folder, base)
    if _digest_of(folder, args) != known:
        shutil.rmtree(folder)
        shutil.rmtree(base)
        raise RecipeError(
            "`model` is a PEFT model that differs from the one in memory after PEFT has saved and loaded it: its base model "
            "was changed, or is loaded in another precision. Merge the adapter (`model.merge_and_unload()`), or save both "
            "the base and the adapter yourself and pass the adapter's folder."
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
    """Return the digest of the saved model, or None if it can't be loaded."""
    try:
        return digest(load_policy(folder, args))
    except DataError:
        return None
