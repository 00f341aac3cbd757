"""A server's log: its last lines, made safe to show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...config.credentials import hide_named
from ...errors import visible

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MOST_BYTES = 1 << 19
"""Bytes of a log that are read, from its end."""

_MOST_CHARACTERS = 400
"""Characters of a line that are shown."""


def read_log(path: Path, start: int = 0, secrets: Iterable[str] = ()) -> str:
    """Return the end of a log as safe text: without colours, control characters and credentials.

    Args:
        path: the log; if it can't be read, there is no text.
        start: offset in bytes of the part to read: earlier output is of an earlier server.
        secrets: texts to hide, in addition to what looks like a credential.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _MOST_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    text = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    for secret in secrets:
        text = text.replace(secret, "***")
    return visible(hide_named(text))


def last_lines(text: str, count: int = 20) -> str:
    """Return the last lines of a text that are not empty, long ones cut, each indented."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
    cut = (line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} ..." for line in lines)
    return "\n".join(f"  {line}" for line in cut)
