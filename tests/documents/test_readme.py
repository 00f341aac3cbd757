"""The README is short, begins with what a user of TRL looks for, and names existing commands."""

from __future__ import annotations

import argparse
import ast
import re

import pytest
import yaml

from documents.pages import DOCS, README, TOP, navigation
from spin_trl.cli.command_line import command_parser
from spin_trl.config.recipe import known_settings
from spin_trl.config.shipped import recipes

TEXT = README.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
MAKEFILE = (TOP / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_it_is_short():
    assert len(LINES) <= 150


def test_the_change_from_dpo_trainer_comes_early():
    assert TEXT[: TEXT.index("SPINTrainer(model=")].count("\n") <= 60


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_both_commands_set_up_what_they_run(target):
    assert f"\nmake {target}\n" in TEXT
    assert re.search(rf"^{target}: \$\(READY\)", MAKEFILE, re.MULTILINE)


def test_the_example_is_python_of_ten_lines():
    (example,) = blocks("python")
    ast.parse(example)
    assert len(example.splitlines()) <= 10


def test_the_recipe_has_three_settings_that_are_known():
    (recipe,) = blocks("yaml")
    assert len(yaml.safe_load(recipe)) == 3
    assert set(yaml.safe_load(recipe)) <= set(known_settings())


def test_it_leads_to_every_page_of_the_guide():
    """The reference and the pages for developers are reached from these."""
    pages = [page for page in navigation() if not page.startswith(("reference/", "develop/"))]
    assert [page for page in pages if f"/docs/{page})" not in TEXT and f"/docs/{page}#" not in TEXT] == []


def test_every_command_is_named_outside_the_reference():
    """Nobody finds a command that only the reference has. A list of phases may leave out `spin-trl`."""
    pages = [page for page in navigation() if not page.startswith(("reference/", "develop/"))]
    guide = "\n".join([TEXT, *((DOCS / page).read_text(encoding="utf-8") for page in pages)])
    (commands,) = (one.choices for one in command_parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert [name for name in commands if not re.search(rf"`{name}`|spin-trl {name}\b", guide)] == []


def test_the_recipes_are_those_that_ship():
    table = TEXT.partition("\n## Recipes")[2].partition("\n## ")[0]
    named = {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`([\w./-]+)`", row)}
    assert named == set(recipes())
