"""Grammatical agreement in messages: one row is left out, two rows are; a list, an int."""

from __future__ import annotations


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


def with_article(name: str) -> str:
    """Return a name with its indefinite article: `a list`, `an int`."""
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"
