"""Long texts are shown by their beginnings."""

from __future__ import annotations


def cut(text: str, length: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters were left out."""
    return text[:length], max(len(text) - length, 0)
