"""Grammatical agreement in messages: one row is left out, two rows are; a list, an int."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: float, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 iteration`, `3 iterations`.

    Args:
        count: the number.
        one: singular form.
        many: plural form; None: `one` with an s.
    """
    return f"{count:,.0f} {agreeing(count, one, many)}"


def agreeing(count: float, one: str, many: str | None = None) -> str:
    """Return the form that agrees with a number, without the number itself: `is` or `are`.

    Args:
        count: the number.
        one: singular form.
        many: plural form; None: `one` with an s.
    """
    return one if count == 1 else f"{one}s" if many is None else many


def listed(values: Sequence[object], most: int) -> str:
    """Return the first values, and how many more there are: `a, b and 3 more`.

    Args:
        values: the values.
        most: maximum number of values that are written out.
    """
    more = len(values) - most
    return ", ".join(map(str, values[:most])) + (f" and {more} more" if more > 0 else "")


def with_article(name: str) -> str:
    """Return a name with its indefinite article: `a list`, `an int`."""
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"
