"""Writes a recipe that fits a dataset, a model and this machine, with comments that explain the settings."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ...config.recipe import read_settings
from ...counts import counted
from ...errors import RecipeError, SpinError, visible
from ...files import home_expanded, write_text
from ...plan.model import ModelSettings, PlannedModel
from ...plan.planning import Wishes, make_plan
from ...quiet import quiet
from ...run.trust import run_of_recipe
from .look import Machine, SeenData, SeenModel, lengths_in_words
from .recipe_text import ADAPTER, FOUR_BITS, FULL, Fit, gib_in_words, recipe_text

logger = logging.getLogger(__name__)

_BYTES = {FULL: 16.0, ADAPTER: 2.0, FOUR_BITS: 0.5}
"""Least bytes per parameter that training needs: weights, gradients and Adam's states in float32; otherwise only weights."""


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was written.

    Attributes:
        path: path of the recipe file.
        settings: settings in the recipe.
        fit: how the model is trained.
    """

    path: Path
    settings: dict[str, Any]
    fit: Fit


def check_output(output: str, *, force: bool) -> Path:
    """Return the path of a new recipe.

    Raises:
        RecipeError: if the file exists, its folder is missing or is a run directory, or its name is not that of a recipe.
    """
    path = home_expanded(output)
    if path.is_dir():
        raise RecipeError(f"`--output`: {path} is a folder. Name a file in it, such as {path / 'recipe.yaml'}.")
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"`--output` is {output!r}; the name of a recipe must end with .yaml or .yml.")
    if not path.absolute().parent.is_dir():
        raise RecipeError(f"`--output`: the folder {path.parent} does not exist. Create it first.")
    if run_of_recipe(path) is not None:
        raise RecipeError(f"`--output`: {path.absolute().parent} is a run directory. Write the recipe elsewhere.")
    if os.path.lexists(path) and not force:
        raise RecipeError(f"{path} already exists. Name another file (`--output`), or overwrite it with `--force`.")
    return path


def write_recipe(path: Path, model: SeenModel | None, data: SeenData | None, machine: Machine) -> NewRecipe:
    """Write a recipe.

    Args:
        path: path from [`check_output`].
        model: model to train; None: a placeholder is written.
        data: data to train on; None: a placeholder is written.
        machine: machine the recipe is to run on.

    Raises:
        RecipeError: if the recipe can't be read back; nothing is written then.
    """
    with tempfile.TemporaryDirectory(prefix="spin-trl-") as folder:
        draft = Path(folder) / path.name
        fit = _fitting(draft, path, model, data, machine)
        text = recipe_text(path, model, data, machine, fit)
        draft.write_text(text, encoding="utf-8")
        read_settings(str(draft), ["--use_cpu", "true"])
    write_text(path, text)
    return NewRecipe(path, yaml.safe_load(text), fit)


def _fitting(draft: Path, path: Path, model: SeenModel | None, data: SeenData | None, machine: Machine) -> Fit:
    """Return the way to train that gives up the least among those that fit the machine; the last way if none fits."""
    ways = list(_ways(model, machine))
    if model is None or data is None or model.config is None:
        return ways[0]
    found = ways[0]
    try:
        with quiet("spin_trl"):
            settings = ModelSettings(model.config, torch.float32)
            at_least = {kind: PlannedModel(settings).num_parameters * size for kind, size in _BYTES.items()}
            # A plan takes seconds, so skip what can't fit.
            ways = [way for way in ways if at_least[way.kind] < machine.device.memory * 2**30] or ways[-1:]
            for way in ways:
                draft.write_text(recipe_text(path, model, data, machine, way), encoding="utf-8")
                plan = make_plan(str(draft), [], Wishes(), on_gpu=machine.device.is_gpu)
                found = Fit(way.kind, way.batch, plan.peak.total / 2**30, plan.fits(machine.device))
                if found.fits:
                    break
    except SpinError as error:  # a model that can't be planned
        logger.debug("No plan was made: %s", error)
        return ways[0]
    return found


def _ways(model: SeenModel | None, machine: Machine) -> Iterator[Fit]:
    on_gpu = machine.device.is_gpu
    sizes = (8, 2) if on_gpu else (4, 1)
    kinds = [FULL, ADAPTER, *([FOUR_BITS] if on_gpu else [])]
    if model is not None and model.is_adapter:
        kinds = kinds[1:]
    for kind in kinds:
        for size in sizes:
            yield Fit(kind, size)


def seen_in_words(model: SeenModel | None, data: SeenData | None, machine: Machine, new: NewRecipe) -> list[str]:
    """Describe the data, the model, the machine and the chosen way to train, one line each."""
    lines = []
    if data is not None:
        guessed = " (a guess)" if data.guess.is_by_content else ""
        mapped = ", ".join(f"`{old}` as `{new}`" for old, new in data.guess.mapping.items()) + guessed
        columns = mapped or ", ".join(f"`{column}`" for column in data.read)
        form = "text" if data.is_text else "conversations"
        rows = counted(data.total, "row")
        lines.append(f"Data: {data.settings.dataset_name}, {rows}, read as {form}: {columns}.")
        lines.append(f"Lengths of {lengths_in_words(data)}.")
        if data.unused is not None:
            lines.append(data.unused)
        if data.bad:
            number, problem = data.bad[0]
            seen = f"{len(data.bad)} of {counted(data.sampled, 'sampled row')}"
            lines.append(
                f"{seen} can't be used and will be skipped (`bad_rows: skip`). The first is row {number}: {problem}"
            )
        if data.scorer is not None:
            lines.append(
                f"The answers have the form that the scorer {data.scorer} expects: see its lines in the recipe."
            )
    if model is not None:
        kind = "" if model.config is None else f", {model.config.model_type}"
        positions = "" if model.positions is None else f", {model.positions:,} positions"
        template = "a chat template" if model.has_chat_template else "no chat template"
        lines.append(f"Model: {model.name}{kind}{positions}, {template}.")
    how = {
        FULL: "all weights are trained",
        ADAPTER: "an adapter is trained",
        FOUR_BITS: "an adapter is trained on 4-bit weights",
    }
    place = machine.device.name if machine.device.is_gpu else "the CPU"
    peak = f", {gib_in_words(new.fit.peak)} at peak" if new.fit.peak is not None else ""
    lines.append(f"Machine: {place} with {machine.device.memory:.0f} GiB: {how[new.fit.kind]}{peak}.")
    if new.fit.fits is False:
        lines.append("It does NOT fit on this machine. `spin-trl plan` shows what would.")
    return [visible(line) for line in lines]
