"""All cards of a run share facts: its origin, its licence, and the recipe to play it again on another machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

import made_up
from messages import names
from spin_trl.hub.facts import Names, RunFacts, at_commit, linked
from spin_trl.models.lineage import Origin

SHA = "0123456789abcdef0123456789abcdef01234567"
ON_HUB = {"name": "org/base", "on_hub": True, "commit": SHA}


def facts(
    *journal: dict[str, Any],
    origins: dict[str, Any] | None = None,
    branches: dict[str, str] | None = None,
    **settings: Any,
) -> RunFacts:
    """Return the facts of a run of two iterations, the second of which played against the start."""
    prepared = [{"phase": "prepare", "stage": "data", "origins": origins}] if origins is not None else []
    gates = [
        {"phase": "gate", "stage": "iteration-0", "decision": "fell back", "opponent": "start"},
        {"phase": "gate", "stage": "iteration-1", "decision": "improved", "opponent": "iteration-1"},
    ]
    stages = [made_up.stage(name, range(40)) for name in ("start", "iteration-0", "iteration-1")]
    record = made_up.record(*stages, journal=[*prepared, *gates, *journal], settings=settings)
    return RunFacts(record, Names("someone/model", branches=branches or {}))


@pytest.mark.parametrize(
    ("origins", "settings", "expected"),
    [
        ({"model": ON_HUB}, {"model_name_or_path": "org/other"}, Origin("org/base", True, SHA)),
        ({}, {"model_name_or_path": "org/other"}, None),  # no origin was found: it was built in the run
        (None, {"model_name_or_path": "org/other"}, Origin("org/other", True)),  # a run of an earlier version
        (None, {"model_name_or_path": "/models/mine"}, Origin("mine")),
        (None, {"model_name_or_path": "./mine"}, Origin("mine")),
        (None, {}, None),
    ],
)
def test_the_given_model_is_what_the_journal_says_or_else_the_setting(
    origins: dict[str, Any] | None, settings: dict[str, Any], expected: Origin | None
) -> None:
    """The path is left out, since it is specific to one machine."""
    assert facts(origins=origins, **settings).given == expected


def test_a_start_that_was_given_as_an_object_has_its_root() -> None:
    given = {"phase": "given", "stage": "start", "digest": "x", "origin": {"name": "local", "base": "org/root"}}
    assert facts(given, origins={}).origin == Origin("given as an object", base="org/root")
    assert facts({**given, "origin": None}, origins={}).origin == Origin("given as an object")
    assert facts(origins={}).origin is None  # built from scratch


def test_data_may_be_a_function_or_a_name_on_the_hub() -> None:
    found = facts(dataset_name="org/data", held_out_name="my.module:rows")
    assert (found.data, found.held_out) == (Origin("org/data", True), Origin("my.module:rows"))
    assert facts().held_out is None


@pytest.mark.parametrize(
    ("journal", "settings", "expected"),
    [
        ([], {}, (None, "")),
        ([{"model": "mit", "data": None}], {}, ("mit", "the base model's")),
        ([{"model": "mit"}, {"model": "apache-2.0"}], {}, ("apache-2.0", "the base model's")),  # the newest answer
        ([{"model": "mit"}], {"hub_license": "cc0-1.0"}, ("cc0-1.0", "set by the author of the run")),
    ],
)
def test_a_licence_is_the_users_or_that_of_what_the_run_began_with(
    journal: list[dict[str, Any]], settings: dict[str, Any], expected: tuple[str | None, str]
) -> None:
    entries = [{"phase": "licenses", "stage": "hub", **entry} for entry in journal]
    assert facts(*entries, **settings).license_of("model") == expected


def recipe_of(found: RunFacts) -> dict[str, Any]:
    """Return the recipe that the cards show."""
    text = str(found.shared["recipe"])
    return yaml.safe_load(text.partition("yaml\n")[2].rpartition("```")[0])


def test_the_recipe_plays_the_run_again_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no paths of this machine and no push destinations, but the commits of what was loaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").touch()
    found = facts(
        origins={"model": ON_HUB, "data": {"name": "org/data", "on_hub": True, "commit": SHA}},
        beta=0.1, run_dir="/home/me/runs/a", hub_model_id="me/a", report_to=["wandb"], dataset_name="data/rows.jsonl",
        scorer=["regex:a/b", "/home/me/score.py"], model_init_kwargs={"cache_dir": "~/cache", "dtype": "auto"},
    )  # fmt: skip
    assert recipe_of(found) == {
        "beta": 0.1, "dataset_name": "rows.jsonl", "scorer": ["regex:a/b", "score.py"],
        "model_init_kwargs": {"cache_dir": "cache", "dtype": "auto"}, "model_name_or_path": "org/base",
        "model_revision": SHA, "dataset_revision": SHA,
    }  # fmt: skip


def test_a_revision_that_was_set_stays() -> None:
    assert recipe_of(facts(origins={"model": ON_HUB}, model_revision="v1"))["model_revision"] == "v1"


def test_weights_of_losses_are_shown_where_each_loss_has_one() -> None:
    assert facts(loss_type=["space", "sft"], loss_weights=[1.0, 0.1]).shared["weights"] == [1.0, 0.1]
    for settings in (
        {"loss_type": "space", "loss_weights": [1.0]},
        {"loss_type": ["space", "sft"], "loss_weights": [1.0]},
        {},
    ):
        assert facts(**settings).shared["weights"] == []
    assert facts().losses == ["sigmoid"]


def test_every_iteration_stands_beside_its_opponent() -> None:
    """It need not be the previous iteration. Revisions are branches; for the start, it is the commit."""
    table = str(facts(origins={"model": ON_HUB}, branches={"iteration-0": "iter-0"}).shared["opponents"])
    _, _, first, second = table.strip().splitlines()
    assert names(first, "iteration 0", "`iter-0`", "start", "`org/base@01234567`", "fell back")
    assert names(second, "iteration 1", "–", "start", "`org/base@01234567`", "improved")


def test_origins_are_linked_where_there_is_something_to_link_to() -> None:
    url = "https://huggingface.co/org/base"
    assert linked(Origin("org/base", True, SHA)) == f"[org/base]({url}) at commit [01234567]({url}/tree/{SHA})"
    assert linked(Origin("org/d", True), "dataset") == "[org/d](https://huggingface.co/datasets/org/d)"
    assert linked(Origin("mine")) == "`mine` (local)"
    assert names(linked(None, "dataset"), "a dataset", "object")
    assert [at_commit(Origin("a/b", True, SHA), 4), at_commit(Origin("a/b", True, SHA)), at_commit(Origin("a/b"))] == [
        "a/b@0123", f"a/b@{SHA}", "a/b"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "has_own", "is_adapter", "expected"),
    [
        ({}, False, False, False),  # the start is the given model
        ({"start": "sft"}, True, False, True),  # all weights were trained with SFT
        ({"start": "sft"}, True, True, False),  # the SFT adapter's base is the given model
    ],
)
def test_the_base_of_adapters_after_sft(
    first: dict[str, Any], has_own: bool, is_adapter: bool, expected: bool
) -> None:
    found = dataclasses.replace(
        facts(origins={"model": ON_HUB}, **first), has_own_start=has_own, own_start_is_adapter=is_adapter
    )
    assert found.adapts_own_start == expected
    built = dataclasses.replace(facts(origins={}), has_own_start=True)
    assert built.adapts_own_start


def test_a_start_after_sft_is_not_the_given_model() -> None:
    """It has a revision only if the run pushed it; without SFT, it has the given model's commit."""
    plain, after = facts(origins={"model": ON_HUB}), facts(origins={"model": ON_HUB}, start="sft")
    start = plain.record.start
    assert plain._revision(start) == f"`org/base@{SHA[:8]}`"
    assert after._revision(start) == "–"
