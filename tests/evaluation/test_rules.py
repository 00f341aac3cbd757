"""Each rule is followed or not, as worked out by hand; a rule that can't be read is refused with what is wrong."""

from __future__ import annotations

import time
from typing import Any

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation import rules
from spin_trl.evaluation.rules import RULE_NAMES, read_rule

Found = dict[str, Any]


def holds(found: Found, answer: str, **columns: Any) -> bool | None:
    return read_rule(found)[1].holds(answer, columns)


@pytest.mark.parametrize(
    ("found", "followed", "not_followed"),
    [
        ({"characters": {"min": 3, "max": 5}}, ["abc", "naïve", "日本語"], ["ab", "abcdef"]),
        ({"characters": {"max": 3}}, ["abc"], ["abcd"]),
        ({"words": {"min": 2, "max": 3}}, ["one two", "one\n two\tthree"], ["one", "one two three four"]),
        ({"format": "json"}, ['{"a": 1}', "[1, 2]"], ["{'a': 1}", '```json\n{"a": 1}\n```', "[" * 5000]),
        ({"format": "single_line"}, ["a b"], ["a\nb", "a\r\nb"]),
        (
            {"format": "markdown_list"},
            ["- a\n- b", "1. a\n2) b", "* a\n\n  more\n* b", "- a\n  - inner\n- b", "-\ta"],
            ["Here:\n- a\n- b", "- a\nand so on", "a", "-a", "- ", "  more"],
        ),
        ({"whole_text": "[A-D]"}, ["B"], ["B.", "The answer is B"]),
        ({"required": r"^Answer: \d+$", "flags": ["multiline"]}, ["So,\nAnswer: 7\nOr so"], ["The Answer: 7", ""]),
        ({"required": ["a", "b"]}, ["ab"], ["a", "b"]),
        ({"forbidden": ["sorry", r"\bAI\b"], "flags": ["ignorecase"]}, ["an aid"], ["I'm SORRY", "as an ai"]),
        ({"script": "Latin"}, ["Abc, 12 %", "abcdefghiж"], ["абв", "abcdefghж", "12", ""]),
        ({"script": ["Han", "Hiragana", "Katakana"], "share": 1}, ["日本語のテスト。"], ["日本語 test", "한국어"]),
        ({"script": "Latin", "share": 0.5}, ["abжж"], ["aжж"]),
    ],
)
def test_an_answer_follows_a_rule_or_not(found: Found, followed: list[str], not_followed: list[str]) -> None:
    assert [holds(found, answer) for answer in followed] == [True] * len(followed)
    assert [holds(found, answer) for answer in not_followed] == [False] * len(not_followed)


def test_a_column_stands_for_a_bound() -> None:
    """It belongs to the row. A row without a value has no such bound, and without any bound the rule does not apply."""
    found: Found = {"words": {"min": 2, "max": {"column": "limit"}}}
    assert read_rule(found)[1].columns == {"limit"}
    assert [holds(found, "one two three", limit=limit) for limit in (3, 2, 2.5, None)] == [True, False, False, True]
    assert holds({"words": {"max": {"column": "limit"}}}, "one two", limit=None) is None
    with refused(ValueError, "`limit`"):
        holds(found, "one", limit="many")


def test_a_column_holds_texts_that_are_taken_literally() -> None:
    """What a dataset holds is never a pattern."""
    found: Found = {"required": [{"column": "names"}, r"\d"], "flags": ["ignorecase"]}
    assert read_rule(found)[1].columns == {"names"}
    assert holds(found, "C++ (1983)", names=["c++", 3]) is True
    assert holds(found, "C (1983)", names="c++") is False
    assert holds(found, "abc 1", names="a.c") is False
    assert holds(found, "1", names=None) is True
    alone: Found = {"forbidden": {"column": "name"}}
    assert [holds(alone, "abc", name=name) for name in ("b", "d", None, "", [])] == [False, True, None, None, None]
    with refused(ValueError, "`name`"):
        holds(alone, "abc", name={"a": 1})


@pytest.mark.parametrize("found", [{"required": "(a|aa)+$"}, {"whole_text": "(a|aa)+"}, {"forbidden": "(a|aa)+$"}])
def test_a_pattern_that_takes_exponential_time_is_given_up(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own `re` would search for years, and nothing could stop it."""
    monkeypatch.setattr(rules, "PATTERN_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        holds(found, "a" * 60 + "b")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        ({}, [*RULE_NAMES]),
        ({"words": {"max": 3}, "format": "json"}, ["words", "format"]),
        ({"flags": ["ignorecase"], "format": "json"}, ["`flags`", "`format`", "forbidden"]),
        ({"share": 0.5, "required": "a"}, ["`share`", "`required`", "script"]),
        ({"words": 3}, ["`words`", 3, "min", "max"]),
        ({"words": {}}, ["`words`", "`min`", "`max`"]),
        ({"words": {"maximum": 3}}, ["`words`", "'maximum'", "'max'"]),
        ({"words": {"max": -1}}, ["`words.max`", -1]),
        ({"words": {"max": True}}, ["`words.max`", True]),
        ({"words": {"max": "3"}}, ["`words.max`", "'3'"]),
        ({"words": {"min": 5, "max": 3}}, ["`words`", 5, 3]),
        ({"words": {"max": {"colum": "limit"}}}, ["`words.max`", "'colum'", "'column'"]),
        ({"words": {"max": {"column": ""}}}, ["`words.max`", "''"]),
        ({"format": "jsn"}, ["`format`", "'jsn'", "'json'", "`whole_text`"]),
        ({"format": ["json"]}, ["`format`", "['json']"]),
        ({"required": "("}, ["`required`", "'('", 1]),
        ({"required": []}, ["`required`"]),
        ({"required": ["a", ""]}, ["`required`", "''"]),
        ({"required": 7}, ["`required`", 7]),
        ({"whole_text": ["a"]}, ["`whole_text`", "['a']"]),
        ({"required": "a" * 2001}, ["`required`", "2,001", "2,000"]),
        ({"required": "a", "flags": ["ignore_case"]}, ["`flags`", "'ignore_case'", "'ignorecase'"]),
        ({"script": "English"}, ["`script`", "'English'", "Latin"]),
        ({"script": "Latin}|."}, ["`script`", "'Latin}|.'"]),
        ({"script": []}, ["`script`"]),
        ({"script": "Latin", "share": 0}, ["`share`", 0]),
        ({"script": "Latin", "share": "half"}, ["`share`", "'half'"]),
    ],
)
def test_a_rule_that_can_not_be_read_is_refused_with_what_is_wrong(found: Found, parts: list[object]) -> None:
    with refused(RecipeError, *parts):
        read_rule(found)
