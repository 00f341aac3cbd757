"""The rules of a rubric: what can be checked of an answer without a model.

Patterns are those of the package `regex`, which are Python's and more: unlike `re`, it can give up after some time, and it
knows the writing system of every character (Unicode's Script property).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import regex

from ..errors import RecipeError, nearest
from ..files import parse_json

PATTERN_SECONDS = 1.0
"""Seconds after which the search for a pattern in one answer is given up: some patterns take exponential time."""

LONGEST_PATTERN = 2000
"""Maximum number of characters of a pattern: compiling can't be interrupted."""

SCRIPT_SHARE = 0.9
"""Share of an answer's letters that must be of the script, by default: names and formulas may be of another one."""

Columns = Mapping[str, Any]
"""Values of a row's columns, by name."""


class Rule(Protocol):
    """A rule, which an answer follows or not."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the row that it needs."""

    def holds(self, answer: str, columns: Columns) -> bool | None:
        """Return whether an answer follows the rule; None if the row has no values that it needs.

        Args:
            answer: answer without the white space around it.
            columns: values of the columns that it needs.

        Raises:
            TimeoutError: if this can't be decided in time.
            ValueError: if a column has a value of another type.
        """


@dataclass(frozen=True)
class Column:
    """A column of the row, in place of a number or a text."""

    name: str


_LENGTHS = {"characters": len, "words": lambda text: len(text.split())}


@dataclass(frozen=True)
class Length:
    """Bounds of an answer's length, both inclusive.

    Attributes:
        unit: `characters` or `words` (separated by white space).
        low, high: bounds, or columns that hold them; None: no bound.
    """

    unit: str
    low: int | Column | None
    high: int | Column | None

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(bound.name for bound in (self.low, self.high) if isinstance(bound, Column))

    def holds(self, answer: str, columns: Columns) -> bool | None:
        low, high = (self._bound(bound, columns) for bound in (self.low, self.high))
        if low is None and high is None:
            return None
        length = _LENGTHS[self.unit](answer)
        return (low is None or length >= low) and (high is None or length <= high)

    def _bound(self, bound: int | Column | None, columns: Columns) -> int | float | None:
        if not isinstance(bound, Column):
            return bound
        value = columns[bound.name]
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise ValueError(f"the column `{bound.name}` is {value!r:.80}; expected a number of {self.unit}")


_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+\S")


def is_json(answer: str) -> bool:
    """Return whether the whole answer is JSON."""
    try:
        parse_json(answer)
    except ValueError:  # also for thousands of brackets, which a collapsed model may write
        return False
    return True


def is_markdown_list(answer: str) -> bool:
    """Return whether the whole answer is a Markdown list: lines that begin an item, indented lines, and empty ones."""
    lines = [line for line in answer.splitlines() if line.strip()]
    begins = [_ITEM.match(line) is not None for line in lines]
    return (
        bool(begins)
        and begins[0]
        and all(begun or line.startswith(("  ", "\t")) for line, begun in zip(lines, begins, strict=True))
    )


def is_single_line(answer: str) -> bool:
    """Return whether the answer has no line break."""
    return len(answer.splitlines()) == 1


_FORMATS = {"json": is_json, "markdown_list": is_markdown_list, "single_line": is_single_line}


@dataclass(frozen=True)
class Format:
    """A format of the whole answer: one of `json`, `markdown_list`, `single_line`."""

    name: str
    columns: frozenset[str] = frozenset()

    def holds(self, answer: str, columns: Columns) -> bool:
        return _FORMATS[self.name](answer)


@dataclass(frozen=True)
class Patterns:
    """Patterns, all of which an answer must contain, or none.

    Attributes:
        patterns: compiled patterns, or columns with one or several texts, which are taken literally.
        flags: flags for the texts of columns.
        forbidden: whether the answer may contain none of them.
        whole: whether each must match the whole answer, not a part.
    """

    patterns: tuple[Any, ...]  # compiled patterns of `regex`, which has no types
    flags: int = 0
    forbidden: bool = False
    whole: bool = False

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(pattern.name for pattern in self.patterns if isinstance(pattern, Column))

    def holds(self, answer: str, columns: Columns) -> bool | None:
        patterns = [
            compiled
            for pattern in self.patterns
            for compiled in (self._of_column(pattern, columns) if isinstance(pattern, Column) else [pattern])
        ]
        if not patterns:
            return None
        return all(self._is_found(pattern, answer) != self.forbidden for pattern in patterns)

    def _is_found(self, pattern: Any, answer: str) -> bool:
        find = pattern.fullmatch if self.whole else pattern.search
        return find(answer, timeout=PATTERN_SECONDS) is not None

    def _of_column(self, column: Column, columns: Columns) -> list[Any]:
        value = columns[column.name]
        texts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        texts = [text for text in texts if text is not None and text != ""]
        odd = next((text for text in texts if isinstance(text, bool) or not isinstance(text, str | int | float)), None)
        if odd is not None:
            raise ValueError(f"the column `{column.name}` has {odd!r:.80}; expected a text, or a list of texts")
        return [regex.compile(regex.escape(str(text)), self.flags) for text in texts]


@dataclass(frozen=True)
class Script:
    """A share of an answer's letters that must belong to a writing system. It says nothing about the language.

    Attributes:
        letters: compiled pattern of the letters of the script.
        share: smallest share. An answer without letters does not follow the rule.
    """

    letters: Any
    share: float
    columns: frozenset[str] = frozenset()

    def holds(self, answer: str, columns: Columns) -> bool:
        every = sum(map(str.isalpha, answer))
        return every > 0 and len(self.letters.findall(answer, timeout=PATTERN_SECONDS)) >= self.share * every


FLAGS = {name.lower(): getattr(regex, name) for name in ("IGNORECASE", "MULTILINE", "DOTALL", "VERBOSE")}
"""Flags of patterns, by the names that a rubric gives them."""


def _length(unit: str, value: Any, modifiers: Mapping[str, Any]) -> Length:
    bounds = _mapping(unit, value, ("min", "max"))
    low, high = (_bound(f"{unit}.{name}", bounds.get(name)) for name in ("min", "max"))
    if low is None and high is None:
        raise RecipeError(f"`{unit}` has no bound; expected `min`, `max` or both.")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        raise RecipeError(f"`{unit}` has the `min` {low}, which is above its `max` {high}.")
    return Length(unit, low, high)


def _bound(name: str, value: Any) -> int | Column | None:
    if isinstance(value, Mapping):
        return _column(name, value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise RecipeError(f"`{name}` is {value!r:.80}; expected a whole number from 0, or `{{column: NAME}}`.")
    return value


def _format(name: str, value: Any, modifiers: Mapping[str, Any]) -> Format:
    if not isinstance(value, str) or value not in _FORMATS:
        raise RecipeError(
            f"`{name}` is {value!r:.80}; expected {', '.join(_FORMATS)}, or `whole_text` with a pattern"
            f"{nearest(str(value), _FORMATS)}"
        )
    return Format(value)


def _patterns(name: str, value: Any, modifiers: Mapping[str, Any]) -> Patterns:
    flags = 0
    for flag in _listed(modifiers.get("flags", [])):
        if not isinstance(flag, str) or flag not in FLAGS:
            raise RecipeError(f"`flags` has {flag!r:.80}; expected {', '.join(FLAGS)}{nearest(str(flag), FLAGS)}")
        flags |= FLAGS[flag]
    is_whole = name == "whole_text"
    if is_whole and not isinstance(value, str):
        raise RecipeError(f"`{name}` is {value!r:.80}; expected a pattern.")
    values = _listed(value)
    if not values:
        raise RecipeError(f"`{name}` is an empty list; expected a pattern, or a list of patterns.")
    found = [_column(name, one) if isinstance(one, Mapping) else _compiled(name, one, flags) for one in values]
    return Patterns(tuple(found), flags, forbidden=name == "forbidden", whole=is_whole)


def _compiled(name: str, pattern: Any, flags: int) -> Any:
    if not isinstance(pattern, str) or not pattern:
        raise RecipeError(f"`{name}` has {pattern!r:.80}; expected a pattern, as a text that is not empty.")
    if len(pattern) > LONGEST_PATTERN:
        raise RecipeError(
            f"`{name}` has a pattern of {len(pattern):,} characters; expected {LONGEST_PATTERN:,} at most. Use several "
            "patterns or several criteria."
        )
    try:
        return regex.compile(pattern, flags)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise RecipeError(f"`{name}` has the pattern {pattern!r:.200}, which can't be read: {error}.") from error


_SCRIPT_NAME = re.compile(r"[A-Za-z][A-Za-z_ ]*")


def _script(name: str, value: Any, modifiers: Mapping[str, Any]) -> Script:
    share = modifiers.get("share", SCRIPT_SHARE)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise RecipeError(f"`share` is {share!r:.80}; expected a number above 0 and at most 1.")
    names = _listed(value)
    if not names:
        raise RecipeError(f"`{name}` is an empty list; expected the name of a script, or several.")
    for one in names:
        if not isinstance(one, str) or not _SCRIPT_NAME.fullmatch(one) or not _is_script(one):
            raise RecipeError(
                f"`{name}` has {one!r:.80}; expected the name of a script in Unicode, such as Latin, Cyrillic, Arabic, Han "
                "or Hiragana. It is a writing system, not a language."
            )
    letters = "".join(rf"\p{{Script={one}}}" for one in names)
    return Script(regex.compile(rf"[[{letters}]&&\p{{L}}]", regex.VERSION1), float(share))


def _is_script(name: str) -> bool:
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return True


_RULES: Mapping[str, Callable[[str, Any, Mapping[str, Any]], Rule]] = {
    "characters": _length,
    "words": _length,
    "format": _format,
    "whole_text": _patterns,
    "required": _patterns,
    "forbidden": _patterns,
    "script": _script,
}
"""Functions that read a rule from the value under its name, and from the criterion's further keys."""

RULE_NAMES = tuple(_RULES)
"""Names of the rules."""

_MODIFIERS = {"flags": ("whole_text", "required", "forbidden"), "share": ("script",)}
"""Further keys of a criterion, with the rules that they belong to."""

RULE_KEYS = (*RULE_NAMES, *_MODIFIERS)
"""Keys of a criterion that make up its rule."""


def read_rule(found: Mapping[str, Any]) -> tuple[str, Rule]:
    """Return the name of a rule, and the rule, from a criterion's keys in [`RULE_KEYS`].

    Raises:
        RecipeError: if there is not exactly one rule, or it can't be read.
    """
    rules = [name for name in RULE_NAMES if name in found]
    if len(rules) != 1:
        has = f"the rules {', '.join(rules)}" if rules else "no rule"
        raise RecipeError(f"it has {has}; expected exactly one of {', '.join(RULE_NAMES)}.")
    (name,) = rules
    for modifier, of in _MODIFIERS.items():
        if modifier in found and name not in of:
            raise RecipeError(f"`{modifier}` has no effect on `{name}`; it belongs to {', '.join(of)}.")
    return name, _RULES[name](name, found[name], found)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mapping(name: str, value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"`{name}` is {value!r:.80}; expected a mapping with {' and '.join(known)}.")
    unknown = next((key for key in value if key not in known), None)
    if unknown is not None:
        raise RecipeError(
            f"`{name}` has the key {unknown!r:.80}; expected {', '.join(known)}{nearest(str(unknown), known)}"
        )
    return value


def _column(name: str, value: Mapping[str, Any]) -> Column:
    column = _mapping(name, value, ("column",)).get("column")
    if not isinstance(column, str) or not column:
        raise RecipeError(f"`{name}` names the column {column!r:.80}; expected the name of a column.")
    return Column(column)
