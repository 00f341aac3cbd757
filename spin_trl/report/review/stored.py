"""Reads a review page of a run back: what it shows, which the local server sends to the browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import RunDirectoryError
from ...files import json_digest, parse_json
from .assignment import Assignment

_EMBEDDED = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)


def digest_of(data: dict[str, Any]) -> str:
    """Return the digest of what a page shows: its texts, in their order and on their sides."""
    return json_digest({name: value for name, value in data.items() if name not in ("name", "page")})


def stored_data(path: Path, assignment: Assignment) -> dict[str, Any] | None:
    """Return the data of a stored page; None if there is no page, or it is not the one that its assignment belongs to.

    Args:
        path: the page, `review.html`.
        assignment: assignment of its answers.

    Raises:
        RunDirectoryError: if the page can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise RunDirectoryError(f"{path} can't be read: {error}") from error
    found = _EMBEDDED.search(text)
    try:
        data = parse_json(found[1]) if found is not None else None
    except ValueError:
        data = None
    if not isinstance(data, dict) or digest_of(data) != assignment.page:
        return None
    return data
