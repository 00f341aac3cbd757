"""Everything that is generated from the code, by its path in the repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import spin_trl
from compatibility.table import block, read
from reference import (
    commands_page,
    errors_page,
    figures_page,
    models_page,
    objectives_page,
    objectives_table,
    python_page,
    settings_page,
)
from spin_trl.config.reference.described import describe
from spin_trl.config.reference.known import KnownSetting, settings_as_json
from spin_trl.config.reference.listed import installed_versions
from spin_trl.config.reference.schema import schema_of

TOP = Path(spin_trl.__file__).parents[1]

SETTINGS = f"spin_trl/config/reference/settings-trl-{installed_versions()['trl']}.json"
SCHEMA = "recipes/schema.json"


@cache
def described() -> list[KnownSetting]:
    return describe()


def objectives() -> str:
    return objectives_table.with_table(objectives_table.PAGE.read_text(encoding="utf-8"))


def models() -> str:
    """Return the page with its current rows, since trying every family again takes minutes."""
    return models_page.page(read(block((TOP / "docs/reference/models.md").read_text(encoding="utf-8"))))


WRITTEN: Mapping[str, Callable[[], str]] = {
    SETTINGS: lambda: settings_as_json(described(), installed_versions()),
    SCHEMA: lambda: json.dumps(schema_of(described()), indent=1, ensure_ascii=False) + "\n",
    "docs/objectives.md": objectives,
    "docs/reference/settings.md": lambda: settings_page.page(described(), installed_versions()),
    "docs/reference/commands.md": commands_page.page,
    "docs/reference/objectives.md": objectives_page.page,
    "docs/reference/figures.md": figures_page.page,
    "docs/reference/errors.md": errors_page.page,
    "docs/reference/models.md": models,
    "docs/reference/python.md": python_page.page,
}
