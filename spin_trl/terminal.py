"""Where a command prints: a terminal, a pipe, a log or a file. No character that it prints may end a run."""

from __future__ import annotations

import io
import sys
from typing import IO

from rich.console import Console


def console(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that prints text as it is: `[/-]` in a scorer's name or a path is no markup, and `:x:` no emoji.

    Args:
        file: to print to; None: stdout, which then prints `?` for a character that it can't encode.
        width: columns; None: the terminal's.
    """
    if file is None:
        accept_every_character()
    return Console(file=file, width=width, markup=False, emoji=False)


def accept_every_character() -> None:
    """Let stdout replace what its encoding lacks, such as ± where the locale is C and Python's UTF-8 mode is off.

    Python's own choice for stdout is an error; stderr never raises one.
    """
    # rich leaves out its lines by the same rule.
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")
