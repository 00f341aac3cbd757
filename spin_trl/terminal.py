"""Where a command prints: a terminal, a pipe or a log. No character of a table is a reason for a run to end."""

from __future__ import annotations

import io
import sys

from rich.console import Console


def console() -> Console:
    """A console on stdout that prints `?` for a character that stdout can't encode."""
    accept_every_character()
    return Console()


def accept_every_character() -> None:
    """Let stdout replace what its encoding lacks, such as ± where the locale is C and Python's UTF-8 mode is off.

    Python's own choice for stdout is an error; stderr never raises one.
    """
    # rich leaves out its lines by the same rule.
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")
