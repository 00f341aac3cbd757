"""Numbers with the words that agree with them: one row is left out, two rows are."""

from __future__ import annotations


def counted(count: float, one: str, many: str | None = None) -> str:
    """A number and what there is of it: `1 iteration`, `3 iterations`.

    Args:
        count: how many.
        one: the word, or words, for a single one.
        many: for all other numbers; None: `one` with an s.
    """
    return f"{count:,.0f} {agreeing(count, one, many)}"


def agreeing(count: float, one: str, many: str | None = None) -> str:
    """The words that agree with a number, without the number, where that stands elsewhere: `is` and `are`.

    Args:
        count: how many.
        one: the word, or words, for a single one.
        many: for all other numbers; None: `one` with an s.
    """
    return one if count == 1 else f"{one}s" if many is None else many
