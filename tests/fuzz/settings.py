"""Settings: every one that a recipe may have, with invalid values, in the file or on the command line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from trl import ModelConfig

from spin_trl.config.data import DataConfig
from spin_trl.config.iteration import SPINConfig
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.config.recipe import known_settings
from spin_trl.config.start import StartConfig

from . import values
from .materials import SCRATCH, Materials
from .parts import Input, reading_command, settings_of, write_recipe

NAMES = sorted(known_settings())

TYPES = {field.name: str(field.type) for kind in (DataConfig, SPINConfig, SelfPlayConfig, StartConfig, ModelConfig)
         for field in dataclasses.fields(kind)}  # fmt: skip
"""Allowed values by setting, according to its class."""

LOSSES = ("discopop", "gsil", "iris", "simpo", "space", "spif", "tspin")
"""Losses with their own settings, which begin with the loss's name."""

PLAYS = 0.04
"""Share of the inputs with which a whole iteration is played, which takes seconds."""

FILE_VALUES: tuple[Any, ...] = (
    *values.NUMBERS, *values.OTHERS, "", " ", "a", "nan", "inf", "-inf", "1e400", "1,2", "[1, 2]", '{"a": 1}', "{",
    "no", "None", "null",
    "a\x00b", "\ud800", "@@DIGITS@@", "@@MINUS DIGITS@@", "@@BEYOND FLOAT@@", "@@DEEP@@", "a" * 300, "é", [10**30],
    [math.inf],
    ["a", 1], [[1, 2]], {"a": {"b": [1]}}, {"empty": math.nan}, {"learning_rate": [1]}, {"dtype": "float33"},
    {"num_cycles": "a"}, "/dev/null",
    "none", "all", "steps", "epoch", "best", "auto", "cosine", "sgd", "no", "tensorboard", "fp8", "float16", "debug",
    "json", "regex:(",
    "os:getcwd", "os:nothing", "a.b:c", ":", "./missing",
)  # fmt: skip

LINE_VALUES = (
    "", " ", "a", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "9" * 5_000, "-" + "9" * 5_000, "0.5", "1.5",
    "1e-300", "true", "None",
    "null", "[]", "[1]", "[1, 2]", "[a", "[nan]", "[[1]]", "[" * 3_000, "{}", '{"a": 1}', '{"a"', "{" * 3_000,
    "{a: 1}", '{"a": NaN}',
    '{"a": ' + "9" * 5_000 + "}", "&a [*a]", "\udcff", "a\x00b", "a" * 300, "é", "--", "-", "=", "*", "!!python/none",
    "2020-01-01", "0x10",
    "1_000", "٣", " 1", "1 ", "1e3", "yes", "1,2", "/dev/null", "../..", "~nobody-of-this-name/a", "[2020-01-01]",
    "[&a 1, *a]", "[!!int a]",
    "[9999-99-99]", "[1:99]", "['", "[\t1]", "[{}]",
)  # fmt: skip


def _value(rng: Random, name: str) -> Any:
    """Return a value for the file, occasionally of the setting's own type, which is processed further."""
    if rng.random() < 0.5:
        return copy.deepcopy(rng.choice(FILE_VALUES))
    kind = TYPES.get(name, "")
    if "bool" in kind:
        return rng.choice([True, False, None])
    if "dict" in kind:
        return {rng.choice(["a", "dtype", "style", "empty", ""]): values.odd(rng)}
    if "list" in kind:
        return [rng.choice(FILE_VALUES)]
    if "int" in kind or "float" in kind:
        return rng.choice(values.NUMBERS)
    return rng.choice(values.TEXTS)


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Return a recipe that is valid except for one or two settings."""
    settings = settings_of(materials)
    names = rng.sample(NAMES, rng.choice([1, 1, 1, 2]))
    if any(name.startswith("start_") for name in names) or rng.random() < 0.05:
        settings = settings_of(materials, **SCRATCH)
        del settings["model_name_or_path"]
    of_losses = [loss for loss in LOSSES if names[0].startswith(f"{loss}_")]
    settings |= {"loss_type": of_losses} if of_losses else {}
    if rng.random() < 0.2:
        settings |= {"held_out_fraction": 0.3, "scorer": ["exact_match"]}
    command = "run" if rng.random() < PLAYS else reading_command(rng)
    if rng.random() < 0.6:
        given: dict[str, Any] = {name: _value(rng, name) for name in names}
        recipe = write_recipe(folder, {**settings, **given})
        return Input([command, recipe], f"in the file: {json.dumps(given)[:200]}")
    recipe, arguments = write_recipe(folder, settings), list[str]()
    for name in names:
        chosen = rng.choices(LINE_VALUES, k=rng.choice([1, 1, 1, 1, 0, 2, 3]))
        if len(chosen) == 1 and rng.random() < 0.3:
            arguments.append(f"--{name}={chosen[0]}")
        else:
            arguments += [f"--{name}", *chosen]
    return Input([command, recipe, *arguments], f"on the command line: {' '.join(arguments)[:200]!r}")
