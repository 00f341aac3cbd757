"""Truncation of long texts for display."""

from __future__ import annotations


def cut(text: str, length: int) -> tuple[str, int]:
    """Return the first `length` characters of a text and the number of characters left out."""
    return text[:length], max(len(text) - length, 0)
