"""`spin-trl recipes`: list the recipes that ship with the package."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import shipped
from ..report.terminal import shown_path
from .commands import add_command


def add(commands: Any) -> None:
    """Add the command, which has no arguments."""
    add_command(
        commands, "recipes", list_recipes, help="list the recipes that ship with the package", takes_settings=False
    )


def list_recipes(options: argparse.Namespace, overrides: list[str]) -> None:
    """List the recipes."""
    for name, path in sorted(shipped.recipes().items()):
        print(f"{name:26} {shown_path(path)}")
