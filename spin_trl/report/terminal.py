"""Output of the commands to a terminal, a pipe, a log or a file. No output may end a run or control the terminal."""

from __future__ import annotations

import io
import logging
import sys
import time
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from ..config.credentials import hide
from ..errors import visible


class _PlainConsole(Console):
    """A console that prints all lines and tables as plain text, so that no character can control the terminal."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible(text), **settings)


class _PlainFormatter(logging.Formatter):
    """Formatter that makes log records safe to print on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def printable(text: str) -> str:
    """Return a text, such as an error message, for printing: without credentials, or escape sequences from file names."""
    return visible(hide(text))


def shown_path(path: Path | str) -> str:
    """Return a path for printing: invisible characters are written out on a terminal and left unchanged for programs."""
    return visible(str(path)) if sys.stdout.isatty() else str(path)


def show_log_records_plainly() -> None:
    """Format this process's warnings that reach no handler with [`printable`]."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


def console(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that prints text verbatim: `[/-]` in a scorer's name or a path is not markup, and `:x:` not an emoji.

    Control characters are replaced by their Unicode symbols (`␛` for escape).

    Args:
        file: file to print to; None: stdout, which is set to print `?` for characters that it can't encode.
        width: width in columns; None: the width of the terminal.
    """
    if file is None:
        accept_every_character()
    return _PlainConsole(file=file, width=width, markup=False, emoji=False)


def tell(console: Console, message: str, style: str | None = None) -> None:
    """Print a message of a run that is playing. Where nothing moves (a log, a pipe), the date and local time come first.

    Args:
        console: console to print to.
        message: the message, in one line.
        style: rich's style of the message.
    """
    when = "" if console.is_interactive else time.strftime("%Y-%m-%d %H:%M:%S ")
    console.print(when + message, style=style, highlight=False, soft_wrap=True)


def accept_every_character() -> None:
    """Let stdout replace characters that it can't encode, such as ± if the locale is C and Python's UTF-8 mode is off.

    By default, Python raises an error for them on stdout, but never on stderr.
    """
    # rich uses the same check to avoid box-drawing characters.
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")
