"""The settings determine which data a run trains on and is measured on: what is loaded, cut and renamed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import refused
from spin_trl.config import data
from spin_trl.config.data import DataConfig
from spin_trl.errors import RecipeError


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Return a file of twelve rows whose columns have other names."""
    texts = [{"question": f"q{number}", "answer": f"a{number}"} for number in range(12)]
    return str(tiny.write_jsonl(tmp_path / "rows.jsonl", Dataset.from_list(texts)))


def numbers(dataset: Dataset) -> list[int]:
    return [int(text[1:]) for text in dataset["question"]]


def test_the_first_rows_are_taken_in_their_order(rows: str) -> None:
    assert numbers(DataConfig(rows).train()) == list(range(12))
    assert numbers(DataConfig(rows, max_rows=5).train()) == [0, 1, 2, 3, 4]
    assert numbers(DataConfig(rows, max_rows=50).train()) == list(range(12))


def test_rows_that_are_drawn_are_those_of_the_seed(rows: str) -> None:
    """A larger sample with the same seed contains the smaller one; no row is drawn twice."""
    four, eight, other = (
        numbers(DataConfig(rows, max_rows=count, max_rows_seed=seed).train())
        for count, seed in ((4, 3), (8, 3), (8, 4))
    )
    assert eight[:4] == four
    assert len(set(eight)) == 8
    assert eight != sorted(eight)
    assert other != eight


@pytest.mark.parametrize("kind", ["held_out", "test", "retain"])
def test_a_further_dataset_is_loaded_like_the_first(kind: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded by name and split, with the training data's configuration and commit if it is the same dataset."""
    assert getattr(DataConfig("other.jsonl"), kind)() is None
    found = getattr(DataConfig("other.jsonl", **{f"{kind}_name": rows}), kind)()
    assert numbers(found) == list(range(12))
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(data, "load_rows", lambda *arguments, **_: seen.append(arguments))
    for name, config in (("a/b", "main"), ("c/d", None)):
        settings = {f"{kind}_name": name, f"{kind}_split": "dev"}
        with contextlib.suppress(AttributeError):
            getattr(DataConfig("a/b", dataset_config="main", dataset_revision="1", **settings), kind)()
        assert seen.pop() == (name, config, "dev", None, "1" if config else None)


@pytest.mark.parametrize(
    "mapping", [{"question": "prompt", "answer": "completion"}, "{question: prompt, answer: completion}"]
)
def test_columns_are_renamed_by_a_mapping_or_its_yaml(mapping: Any, rows: str) -> None:
    found = DataConfig(rows, column_mapping=mapping, as_conversations=True).train()
    assert found[0]["prompt"] == [{"role": "user", "content": "q0"}]
    assert found[0]["completion"] == [{"role": "assistant", "content": "a0"}]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"column_mapping": {"a": 1}}, ("`column_mapping`", "'a'", 1)),
        ({"column_mapping": {1: "a"}}, ("`column_mapping`", 1, "'a'")),
        ({"column_mapping": "a: [b"}, ("`column_mapping`",)),
        ({"column_mapping": "[a]"}, ("`column_mapping`", "mapping")),
        ({"max_rows": 0}, ("`max_rows`", 0, 1)),
        ({"max_rows": 3, "max_rows_seed": -1}, ("`max_rows_seed`", -1)),
        ({"max_rows_seed": 1}, ("`max_rows_seed`", "`max_rows`")),
    ],
)
def test_what_names_no_data_is_refused(settings: dict[str, Any], parts: tuple[object, ...]) -> None:
    with refused(RecipeError, *parts):
        DataConfig("rows.jsonl", **settings)


def test_a_dataset_must_be_named() -> None:
    with refused(RecipeError, "`dataset_name`"):
        DataConfig().train()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record name, configuration, split and revision of everything that is loaded."""
    found: list[tuple[Any, ...]] = []

    def load(
        name: str, config: str | None, split: str, mapping: Any, revision: str | None, *, bad_as_rows: bool
    ) -> Dataset:
        found.append((name, config, split, revision))
        return Dataset.from_list([{"question": "q0"}])

    monkeypatch.setattr(data, "load_rows", load)
    return found


ON_HUB = {"dataset_name": "org/d", "dataset_config": "main", "dataset_revision": "abc"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Another split of the same dataset uses the same configuration and commit, unless it names its own
        # configuration.
        ({"held_out_name": "org/d"}, ("org/d", "main", "test", "abc")),
        ({"held_out_name": "org/d", "held_out_config": "other"}, ("org/d", "other", "test", "abc")),
        ({"held_out_name": "org/e", "held_out_split": "dev"}, ("org/e", None, "dev", None)),
    ],
)
def test_held_out_data_is_a_split_of_the_same_dataset_or_another_one(
    settings: dict[str, Any], expected: tuple[Any, ...], asked: list[tuple[Any, ...]]
) -> None:
    config = DataConfig(**ON_HUB, **settings)
    config.train()
    config.held_out()
    assert asked == [("org/d", "main", "train", "abc"), expected]


@pytest.mark.parametrize("name", [None, ""])
def test_without_a_name_nothing_is_loaded_to_measure_on(name: str | None, asked: list[tuple[Any, ...]]) -> None:
    """`--held_out_name ""` overrides a recipe's own."""
    assert DataConfig(**ON_HUB, held_out_name=name).held_out() is None
    assert asked == []
