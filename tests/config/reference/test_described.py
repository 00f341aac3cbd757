"""Every setting is described from the code and its tables: its type, its bounds and what uses it."""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

from shipped_settings import of_shipped_versions
from spin_trl.config.bounds import OF_RECIPES, TRAINABLE
from spin_trl.config.checks import Bounds
from spin_trl.config.credentials import is_name
from spin_trl.config.data import DataConfig
from spin_trl.config.engines import EngineSettings
from spin_trl.config.iteration import SPINConfig
from spin_trl.config.loop import PER_ITERATION, SelfPlayConfig
from spin_trl.config.recipe import known_settings
from spin_trl.config.reference import described
from spin_trl.config.reference.known import Range
from spin_trl.config.start import StartConfig
from spin_trl.config.traits import FREE
from spin_trl.objectives.registry import OWN_SETTINGS

SETTINGS = {setting.name: setting for setting in described.describe()}


@of_shipped_versions
def test_every_setting_of_a_recipe_is_known_and_no_other() -> None:
    """Excluded are tokens, which no recipe may contain, and settings that can only be given in Python."""
    only_in_python = {"parallelism_config"}
    assert SETTINGS.keys() == {name for name in known_settings() if not is_name(name)} - only_in_python | {"env"}


@of_shipped_versions
def test_every_setting_stands_in_one_group_and_groups_name_nothing_else() -> None:
    groups = described._GROUPS
    listed = [name for group in groups["groups"] for name in group["settings"]]
    assert sorted(listed) == sorted(SETTINGS)
    assert {*groups["notes"], *groups["instead"], *groups["more"]} <= SETTINGS.keys()
    often = [name for group in groups["groups"] for name in group.get("often", ())]
    assert [name for name, setting in SETTINGS.items() if setting.is_common] == sorted(often, key=listed.index)


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, setting in SETTINGS.items() if len(setting.help) < 12] == []
    assert [name for name, setting in SETTINGS.items() if "%%" in setting.help or ":class:" in setting.help] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "learning_rate",
            {"kinds": ("number",), "default": 1e-6, "origin": "transformers", "differs_by_iteration": True},
        ),
        (
            "learning_rate",
            {"bounds": Range(0.0, low_open=True, why="with 0 nothing changes"), "names_elsewhere": ("lr",)},
        ),
        ("temperature", {"bounds": Range(0.01, also=(0.0,), why="dividing the logits by less overflows")}),
        ("num_iterations", {"kinds": ("integer",), "default": 3, "origin": "spin_trl", "may_change": True}),
        ("beta", {"origin": "trl", "phases": ("train",), "differs_by_iteration": True}),
        ("scorer", {"kinds": ("array", "null"), "items": "string", "default": None}),
        ("tspin_beta", {"objectives": ("tspin",), "bounds": Range(0.0), "may_change": False}),
        ("simpo_gamma", {"objectives": ("simpo",), "bounds": None}),
        ("lr_scheduler_kwargs", {"kinds": ("object", "string", "null")}),
        ("lora_dropout", {"bounds": Range(0.0, 1.0, high_open=True), "origin": "trl"}),
        ("bad_rows", {"choices": ("refuse", "skip"), "may_change": True}),
    ],
)
def test_what_is_known_of_a_setting(name: str, expected: dict[str, Any]) -> None:
    assert {part: getattr(SETTINGS[name], part) for part in expected} == expected


def test_what_is_known_agrees_with_the_tables_that_the_code_goes_by() -> None:
    assert {name for name, setting in SETTINGS.items() if setting.differs_by_iteration} == set(PER_ITERATION)
    assert {name for name, setting in SETTINGS.items() if setting.may_change} == FREE & SETTINGS.keys()
    bounded = {name for name, setting in SETTINGS.items() if setting.bounds is not None}
    assert {name for name, bounds in {**TRAINABLE, **OF_RECIPES}.items() if isinstance(bounds, Bounds)} <= bounded
    assert {name for name in OWN_SETTINGS if not SETTINGS[name].objectives} == set()
    assert "space" not in SETTINGS["beta"].objectives
    assert "sigmoid" in SETTINGS["beta"].objectives


def test_settings_stand_in_the_order_of_the_groups_and_one_that_is_in_none_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A setting that a new version of TRL adds is shown before it is assigned to a group."""
    groups = copy.deepcopy(described._GROUPS)
    groups["groups"][0]["settings"].remove("dtype")
    monkeypatch.setattr(described, "_GROUPS", groups)
    found = described.describe()
    order = [name for group in groups["groups"] for name in group["settings"] if name in SETTINGS]
    assert [setting.name for setting in found[: len(order)]] == order
    last = {setting.name: setting for setting in found[len(order) :]}
    assert last.keys() == SETTINGS.keys() - set(order)
    assert last["dtype"].group not in {group["title"] for group in groups["groups"]}
    assert (last["dtype"].phases, last["dtype"].is_common) == (("train",), False)


def test_no_token_is_described() -> None:
    """No recipe may contain a token, so nothing shows where it would go."""
    assert "hub_token" in known_settings()
    assert [name for name in SETTINGS if is_name(name)] == []


def test_own_words_stand_instead_of_a_librarys_help_and_notes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = copy.deepcopy(described._GROUPS)
    groups["instead"] = {"beta": "Ours."}
    groups["notes"] = {"weight_decay": "Ours, too."}
    monkeypatch.setattr(described, "_GROUPS", groups)
    found = {setting.name: setting for setting in described.describe()}
    assert (found["beta"].help, found["beta"].note) == ("Ours.", "")
    assert (found["weight_decay"].help, found["weight_decay"].note) == (SETTINGS["weight_decay"].help, "Ours, too.")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A share, like 5%%.", "A share, like 5%."),
        ("Set ``x`` or `y`.", "Set `x` or `y`."),
        ("See :class:`~transformers.Trainer` and :meth:`fit`.", "See `transformers.Trainer` and `fit`."),
        ("See [`~trl.DPOTrainer`] and [`utils.f`].", "See `DPOTrainer` and `f`."),
        ("See [the paper](https://x.org/1).", "See the paper (https://x.org/1)."),
        ("One\n        line,  in all.\n", "One line, in all."),
    ],
)
def test_help_of_libraries_loses_its_marks(text: str, plain: str) -> None:
    """It is written for argparse, Sphinx and Markdown, and a terminal would show the markup literally."""
    assert described._in_plain_text(text) == plain


@pytest.mark.parametrize(
    "config", [DataConfig, EngineSettings, SPINConfig, SelfPlayConfig, StartConfig], ids=lambda kind: kind.__name__
)
def test_a_docstring_lists_the_settings_of_its_module_with_their_help(config: type[Any]) -> None:
    """The help in the metadata is the source; only line breaks may differ. Objectives describe their own settings."""
    declared = {
        name
        for kind in config.__mro__
        if kind.__module__ == config.__module__
        for name in inspect.get_annotations(kind)
    }
    arguments = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(config) or "", re.DOTALL | re.MULTILINE)
    assert arguments is not None
    listed = [" ".join(entry.split()) for entry in re.split(r"^    (?=\S)", arguments[1], flags=re.MULTILINE)[1:]]
    assert listed == [f"{one.name}: {one.metadata['help']}" for one in fields(config) if one.name in declared]
