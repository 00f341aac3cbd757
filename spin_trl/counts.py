"""Words that agree with what stands beside them: one row is left out, two rows are; a list, an int."""

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


def with_article(name: str) -> str:
    """A name with the article that goes with its first letter: `a list`, `an int`."""
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"
