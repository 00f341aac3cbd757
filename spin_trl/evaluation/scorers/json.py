"""Check that the generated response is JSON."""

from __future__ import annotations

from ...files import parse_json


def json(prompt: str, real: str, generated: str) -> float:
    """Return 1 if the whole response is valid JSON."""
    try:
        parse_json(generated)
    except ValueError:  # thousands of brackets, which a collapsed model may write
        return 0.0
    return 1.0
