"""Foreign YAML is parsed within limits."""

from __future__ import annotations

import pytest
import yaml

from spin_trl.config import yaml_text
from spin_trl.config.yaml_text import MOST_DEEP, parse_yaml

BOMB = "\n".join(["a0: &a0 [lol, lol]", *(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9))])


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "&a [*a]",
        "&a {a: *a}",
        "a: &a\n  b: [*a]",
        "[" * (MOST_DEEP + 1) + "]" * (MOST_DEEP + 1),
        "[" * 3_000,
        "9" * 5_000,
        "2020-13-45",
        '"\\UFFFFFFFF"',
        "{[1]: 2}",
    ],
)
def test_what_a_text_stands_for_has_a_limit(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_aliases_are_read() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: {<<: *a}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1}}
    assert parse_yaml("") is None


def test_aliases_count_as_what_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping, two keys, a list of three numbers, and a list that holds it twice count as 1 + 2 + 4 + 1 + 2 * 4."""
    text = "a: &a [1, 2, 3]\nb: [*a, *a]"
    monkeypatch.setattr(yaml_text, "MOST_VALUES", 16)
    assert parse_yaml(text) == {"a": [1, 2, 3], "b": [[1, 2, 3]] * 2}
    monkeypatch.setattr(yaml_text, "MOST_VALUES", 15)
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_lists_are_nested_as_deep_as_is_allowed() -> None:
    found, depth = parse_yaml("[" * MOST_DEEP + "]" * MOST_DEEP), 0
    while found:
        found, depth = found[0], depth + 1
    assert depth == MOST_DEEP - 1
    # Aliases make the value deep, although the text is not.
    chain = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MOST_DEEP))])
    with pytest.raises(yaml.YAMLError):
        parse_yaml(chain)


def test_tags_make_no_objects() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.getcwd []")
