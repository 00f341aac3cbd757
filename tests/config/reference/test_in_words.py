"""Known properties of a setting are written as in a recipe, and unknown ones are omitted."""

from __future__ import annotations

from typing import Any

import pytest

from spin_trl.config.reference.in_words import (
    default_in_words,
    facts_of,
    first_sentence,
    help_of,
    kind_in_words,
    objectives_in_words,
    phases_in_words,
)
from spin_trl.config.reference.known import KnownSetting, Range
from spin_trl.config.reference.listed import every_setting

LOSSES = KnownSetting("loss_type", "Objective", ("string",), choices=("spin", "dpo", "ipo", "sft"))


def setting(*kinds: str, **known: Any) -> KnownSetting:
    return KnownSetting("rate", "Training", kinds, **known)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One.", "One."),
        ("", ""),
        ("One. Two. Three.", "One."),
        ("Is it? It is.", "Is it?"),
        ("One! `two` is more.", "One!"),
        ("One. 'two' is more.", "One."),
        ("One. 0.5 is a share.", "One."),
        ("A share, like 0.5 of all. Two.", "A share, like 0.5 of all."),
        ("A tracker, e.g. TensorBoard. Two.", "A tracker, e.g. TensorBoard."),
        ("The start, i.e. `θ_0`. Two.", "The start, i.e. `θ_0`."),
        ("Files like a.yaml, etc. and so on. Two.", "Files like a.yaml, etc. and so on."),
    ],
)
def test_the_first_sentence_ends_where_the_next_begins(text: str, first: str) -> None:
    assert first_sentence(text) == first


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (setting("boolean"), "true or false"),
        (setting("integer", "null"), "whole number"),
        (setting("object", "string", "null"), "mapping or text"),
        (setting("number", differs_by_iteration=True), "number, or a list with one for each iteration"),
        (setting("array", items="number"), "list of numbers"),
        (setting("array", "string", "null", items="string"), "list of texts"),
        (setting("array", "boolean", items="integer"), "list of whole numbers or true or false"),
        (setting("string", choices=("a", "b")), "one of a, b"),
        (setting("array", "string", items="string", choices=("a", "b")), "one or several of a, b"),
        (setting("boolean", "string", choices=("a", "b")), "one of a, b, or true or false"),
    ],
    ids=str,
)
def test_the_type_in_words(known: KnownSetting, words: str) -> None:
    assert kind_in_words(known) == words


def test_the_type_without_the_choices() -> None:
    """The choices are omitted if they are shown elsewhere."""
    assert kind_in_words(setting("string", "null", choices=("a", "b")), choices=False) == "text"


@pytest.mark.parametrize(
    ("default", "words"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        (0, "0"),
        (False, "false"),
        (True, "true"),
        (1.0, "1"),
        (1e-6, "1e-06"),
        ("auto", "auto"),
        ([0.5, 1.0, True, "a"], "[0.5, 1, true, a]"),
        ({"a": 1}, "{'a': 1}"),
    ],
    ids=repr,
)
def test_the_default_as_a_recipe_has_it(default: Any, words: str) -> None:
    """0 and false are defaults; null, an empty text and an empty list are not shown as one."""
    assert default_in_words(setting("number", default=default)) == words


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, ""),
        ({"help": "One."}, "One."),
        ({"note": "Two."}, "Two."),
        ({"help": "One.", "note": "Two."}, "One. Two."),
    ],
    ids=str,
)
def test_the_note_follows_the_help(parts: dict[str, str], words: str) -> None:
    assert help_of(setting("number", **parts)) == words


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ((), "nothing in a run"),
        (("always",), "the whole run"),
        (("generate", "decide"), "generate, the decision after an iteration"),
    ],
)
def test_phases_in_words(phases: tuple[str, ...], words: str) -> None:
    assert phases_in_words(setting("number", phases=phases)) == words


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        ((), ""),
        (("spin",), "spin"),
        (("spin", "dpo"), "all but ipo, sft"),
        (("spin", "dpo", "ipo"), "all but sft"),
    ],
)
def test_objectives_are_named_or_those_that_are_fewer(objectives: tuple[str, ...], words: str) -> None:
    assert objectives_in_words(setting("number", objectives=objectives), [setting("number"), LOSSES]) == words


def test_all_facts_of_a_setting() -> None:
    known = setting(
        "number",
        default=0.5,
        bounds=Range(0.0, low_open=True, why="with 0 nothing changes"),
        usual=Range(0.1, 1.0, why="SPIN has 0.5"),
        help="How fast.",
        origin="trl",
        phases=("train",),
        objectives=("spin",),
        may_change=True,
        names_elsewhere=("lr", "speed"),
    )
    assert facts_of(known, [known, LOSSES]) == {
        "type": "number",
        "default": "0.5",
        "allowed": "above 0",
        "usual": "at least 0.1 and at most 1 (SPIN has 0.5)",
        "objectives": "spin",
        "used by": "train",
        "resumed run": "may change",
        "declared by": "TRL",
        "also called": "lr, speed",
    }


def test_what_is_not_known_of_a_setting_is_left_out() -> None:
    known = setting("string", usual=Range(1.0))
    assert facts_of(known, [known]) == {
        "type": "text",
        "usual": "at least 1",
        "used by": "nothing in a run",
        "resumed run": "must not change",
        "declared by": "spin_trl",
    }


def test_there_are_words_for_every_setting_that_there_is() -> None:
    """Otherwise, `spin-trl settings` would end with a traceback."""
    settings = every_setting()
    every = [facts_of(known, settings) for known in settings]
    assert len(every) > 200
    assert [facts for facts in every if not {"type", "used by", "resumed run", "declared by"} <= facts.keys()] == []
