"""Where a command prints: a terminal, a pipe, a log or a file. Nothing that it prints may end a run, or steer a terminal."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from ..config.credentials import hide
from ..errors import visible


class _PlainConsole(Console):
    """A console that shows what users, models and paths say as text, in lines and in tables: not one character steers it."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible(text), **settings)


class _PlainFormatter(logging.Formatter):
    """Log records as a terminal can show them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def printable(text: str) -> str:
    """A text, such as an error's message, as it is printed: without escape sequences of a file's name, and credentials."""
    return visible(hide(text))


def shown_path(path: Path | str) -> str:
    """A path as it is printed: on a terminal, what can't be seen is written out; for a program it stays as it is."""
    return visible(str(path)) if sys.stdout.isatty() else str(path)


def show_log_records_plainly() -> None:
    """Let the warnings of this process that no handler takes be printed as [`printable`] has them."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


def console(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that prints text as it is: `[/-]` in a scorer's name or a path is no markup, and `:x:` no emoji.

    Control characters stand as pictures of themselves (`␛` for escape).

    Args:
        file: to print to; None: stdout, which then prints `?` for a character that it can't encode.
        width: columns; None: the terminal's.
    """
    if file is None:
        accept_every_character()
    return _PlainConsole(file=file, width=width, markup=False, emoji=False)


def accept_every_character() -> None:
    """Let stdout replace what its encoding lacks, such as ± where the locale is C and Python's UTF-8 mode is off.

    Python's own choice for stdout is an error; stderr never raises one.
    """
    # rich leaves out its lines by the same rule.
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")
