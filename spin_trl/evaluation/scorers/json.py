"""The generated response is JSON."""

from __future__ import annotations

from ...files import parse_json


def json(prompt: str, real: str, generated: str) -> float:
    """1 if the whole response is JSON."""
    try:
        parse_json(generated)
    except ValueError:  # also thousands of brackets, as a collapsed model writes them
        return 0.0
    return 1.0
