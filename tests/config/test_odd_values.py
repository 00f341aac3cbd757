"""Every setting of a recipe accepts an odd value, or refuses it by name, without a traceback."""

from __future__ import annotations

import copy
import datetime
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import names, refused
from spin_trl.config import kinds
from spin_trl.config.checks import shown
from spin_trl.config.recipe import Recipe, kinds_of_settings, read_settings
from spin_trl.errors import RecipeError

KINDS = kinds_of_settings()

ODD: tuple[Any, ...] = (
    None, True, [], [None], {}, {"a": 1}, {1: 2}, {None: "a"}, [[1]], -1, 0, 2**40, 10**30, int("9" * 4_000), -0.1, 1e-300,
    math.inf, -math.inf, math.nan, "", " ", "a", "no", "nan", "1e400", "9" * 5_000, "[1", "{", "a\0b", "\ud800",
    datetime.date(2020, 1, 1), b"a", {"a"}, ["a", 1], [math.nan], {"a": {"b": [math.nan]}},
)  # fmt: skip

CPU = {"use_cpu": True, "bf16": False}


def refusal(do: Callable[[], object]) -> str | None:
    """Return the message of a refusal, or None if there is none."""
    try:
        do()
    except RecipeError as error:
        return str(error)
    return None


def taken() -> Iterator[tuple[str, Any]]:
    """Return settings with odd values that their types allow."""
    for name, kind in KINDS.items():
        for value in ODD:
            message = refusal(lambda name=name, value=value, kind=kind: kinds.typed(name, copy.deepcopy(value), kind))
            if message is None:
                yield name, value
            else:
                assert names(message, f"`{name}`")


def read(monkeypatch: pytest.MonkeyPatch, path: Path, **settings: Any) -> Recipe:
    """Read a recipe with these settings, as if from a file."""
    monkeypatch.setattr("spin_trl.config.recipe.read_yaml", lambda _: {**CPU, **copy.deepcopy(settings)})
    path.touch()
    return read_settings(str(path))


def check(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, value: Any) -> None:
    message = refusal(lambda: read(monkeypatch, path, **{name: value}))
    assert message is None or names(message, name), f"{name}: {shown(value)}: {message}"


def test_a_type_takes_a_value_or_says_what_is_expected() -> None:
    assert sum(1 for _ in taken()) < 0.5 * len(KINDS) * len(ODD)


@pytest.mark.parametrize("part", range(4))
def test_every_setting_takes_an_odd_value_or_refuses_it_by_its_name(
    part: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each setting gets one odd value that its type allows, and the next setting a different one."""
    by_name: dict[str, list[Any]] = {}
    for name, value in taken():
        by_name.setdefault(name, []).append(value)
    for number, (name, values) in enumerate(by_name.items()):
        if number % 12 == 3 * part and name != "per_iteration":
            check(monkeypatch, tmp_path / "a.yaml", name, values[number % len(values)])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_setting_takes_all_odd_values_or_refuses_them_by_its_name(
    part: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, (name, value) in enumerate(taken()):
        if number % 4 == part and name != "per_iteration":
            check(monkeypatch, tmp_path / "a.yaml", name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", None),
        ("num_iterations", None),
        ("learning_rate", math.nan),
        ("weight_decay", math.inf),
        ("learning_rate", 10**400),
        ("seed", -1),
        ("seed", 10**30),
        ("dataset_name", True),
        ("dataset_name", ["a"]),
        ("run_dir", {"a": 1}),
        ("run_dir", "a\0b"),
        ("accelerate_config", {"a": 1}),
        ("model_name_or_path", ["a"]),
        ("scorer", {"a": 1}),
        ("scorer", [["a"]]),
        ("lora_target_modules", [{"a": 1}]),
        ("lora_r", 0),
        ("lora_dropout", 1.0),
        ("column_mapping", {"a": 1}),
        ("column_mapping", {1: "a"}),
        ("chat_template_kwargs", {1: 2}),
        ("chat_template_kwargs", {"a": datetime.date(2020, 1, 1)}),
        ("model_init_kwargs", {"a": math.nan}),
        ("gradient_checkpointing_kwargs", "[1]"),
        ("accelerator_config", "no such file"),
        ("report_to", {"a": 1}),
        ("start_learning_rate", -0.1),
        ("start_num_heads", 0),
        ("num_iterations", 10**12),
        ("temperature", 1e-8),
        ("degeneration_warn", {"empty": math.nan}),
        ("max_rows_seed", -1),
    ],
)
def test_what_no_run_can_mean_is_refused(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = {"max_rows": 3} if name == "max_rows_seed" else {}
    with refused(RecipeError, f"`{name}`"):
        read(monkeypatch, tmp_path / "a.yaml", **{name: value}, **more)


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"": "a"}, "''"),
        ({"A=B": "c"}, "'A=B'"),
        ({1: "a"}, 1),
        ({"A": ["b"]}, "'A'"),
        ({"A": None}, "'A'"),
        ({"A": "b\0"}, "'A'"),
        ("A=b", "str"),
    ],
)
def test_variables_that_there_can_not_be_are_refused(
    env: Any, part: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with refused(RecipeError, "`env`", part):
        read(monkeypatch, tmp_path / "a.yaml", env=env)


def test_a_text_of_digits_or_a_date_is_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = read(
        monkeypatch,
        tmp_path / "a.yaml",
        dataset_revision=1234567,
        run_name=datetime.date(2020, 1, 1),
        save_strategy=False,
    )
    assert (found.data.dataset_revision, found.args.run_name, found.args.save_strategy) == (
        "1234567",
        "2020-01-01",
        "no",
    )


LAUNCHED_BY = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_FSDP")


@pytest.mark.parametrize("variable", LAUNCHED_BY)
def test_variables_that_a_launcher_sets_are_refused_in_a_recipe(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They identify one of several processes; the environment is unchanged."""
    monkeypatch.delenv(variable, raising=False)
    with refused(RecipeError, "`env`", variable, "`accelerate_config`"):
        read(monkeypatch, tmp_path / "a.yaml", env={"SOME": "x", variable: "1"})
    assert variable not in os.environ
    assert "SOME" not in os.environ


@pytest.mark.parametrize("setting", ["chat_template_kwargs", "env"])
def test_settings_in_text_have_that_limit_too(setting: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**CPU, setting: "[" * 3_000}), encoding="utf-8")
    with refused(RecipeError, f"`{setting}`"):
        read_settings(str(path))
