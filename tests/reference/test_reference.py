"""The reference matches the code: nothing is missing or stale, and every page is as `make reference` writes it."""

from __future__ import annotations

import re

import pytest

from reference import commands_page, errors_page
from reference.markdown import escaped
from reference.pages import SETTINGS, TOP, WRITTEN, described
from shipped_settings import of_shipped_versions
from spin_trl.evaluation.figures import FIGURES, MEANINGS
from spin_trl.objectives.registry import METHODS, OWN_SETTINGS, losses_of_trl

WRITE = "`make reference` writes what is written from the code"

WITH_TRL = {"recipes/schema.json", "docs/reference/settings.md", "docs/reference/objectives.md"}
"""Mark for tests that depend on TRL and transformers. The shipped list of settings has its own test."""

CASES = [
    pytest.param(name, marks=of_shipped_versions if name in WITH_TRL else ()) for name in WRITTEN if name != SETTINGS
]


def page(name: str) -> str:
    return (TOP / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (TOP / name).read_text(encoding="utf-8") == WRITTEN[name](), WRITE


def test_every_page_of_the_reference_is_written_from_the_code() -> None:
    pages = {path.relative_to(TOP).as_posix() for path in TOP.glob("docs/reference/*.md")}
    assert pages == {name for name in WRITTEN if name.startswith("docs/reference/")}


@of_shipped_versions
def test_every_setting_has_an_entry_and_every_entry_is_a_setting() -> None:
    entries = re.findall(r"^### `(\w+)`$", page("settings"), re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(entries) == {setting.name for setting in described()}


def test_every_command_and_option_has_an_entry_and_every_entry_is_one() -> None:
    text = page("commands")
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    commands = commands_page.commands()
    assert list(parts) == list(commands)
    for name, parser in commands.items():
        options = {option for action in commands_page.arguments(parser) for option in action.option_strings}
        named = {
            word for cell in re.findall(r"^\| `(-[^`]*)`", parts[name], re.MULTILINE) for word in cell.split(", ")
        }
        assert {word.split()[0] for word in named} == options
    assert all(action.help for parser in commands.values() for action in commands_page.arguments(parser))


@of_shipped_versions
def test_every_objective_has_an_entry_and_every_entry_is_one() -> None:
    text = page("objectives")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == list(METHODS)
    sections = re.findall(r"^`loss_type`: (`[^\n]*`)", text, re.MULTILINE)
    assert [name for section in sections for name in re.findall(r"`(\w+)`", section)] == list(METHODS)
    assert {loss for loss in losses_of_trl() if f"`{loss}`" not in text} == set()
    assert {name for name in OWN_SETTINGS if f"[`{name}`]" not in text} == set()


def test_every_figure_has_an_entry_and_every_entry_is_one() -> None:
    before, _, _ = page("figures").partition("\nSuffixes of")
    assert re.findall(r"^\| `([\w/]+)` \|", before, re.MULTILINE) == list(FIGURES)
    assert MEANINGS.keys() == FIGURES.keys()


def test_every_exception_has_an_entry_and_every_entry_is_one() -> None:
    kinds = [kind.__name__ for kind in errors_page.exceptions() if kind.__module__.startswith("spin_trl.")]
    named = re.findall(r"^\| `(?:[\w.]+\.)?(\w+)` \|", page("errors"), re.MULTILINE)
    assert sorted(named) == sorted(kinds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b *c*", r"a\_b \*c\*"),
        ("`a_b` c_d", r"`a_b` c\_d"),
        ("<think>", "&lt;think>"),
        ("[a](b)", r"\[a\](b)"),
        ("`", "`"),
    ],
)
def test_texts_of_the_code_are_shown_as_they_are(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_a_bar_does_not_end_a_cell() -> None:
    assert escaped("a | `b|c`", in_table=True) == r"a \| `b\|c`"
