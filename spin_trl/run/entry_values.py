"""The kinds of values that a journal entry may have under each key, so that whoever reads an entry can rely on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import MAXYEAR, UTC, datetime
from types import MappingProxyType
from typing import Any

from ..evaluation.win_rates import SHARES
from .stage import Stage

ValueKind = Callable[[Any], bool]
"""Function that returns whether a value is of a kind."""

_MOST = 2**63
"""What a whole number stays below, so that it can be added to others and turned into a float."""

_LATEST = datetime(MAXYEAR, 1, 1, tzinfo=UTC).timestamp()
"""What a time stays below, so that it has a date."""


def _is_number(value: Any) -> bool:
    """Return whether this is a number, which may be NaN or infinite: so are the figures of a model that diverged."""
    return isinstance(value, float) or _is_whole_number(value)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST


def _is_time(value: Any) -> bool:
    """Return whether this can be a time, in seconds since 1970, or a duration in seconds: both can be shown."""
    return _is_number(value) and 0 <= value < _LATEST


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_stage(value: Any) -> bool:
    try:
        Stage(value)
    except (TypeError, ValueError):
        return False
    return True


def _optional(kind: ValueKind) -> ValueKind:
    return lambda value: value is None or kind(value)


def _list_of(kind: ValueKind) -> ValueKind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _object_of(kind: ValueKind) -> ValueKind:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _is_vote(value: Any) -> bool:
    """Return whether this is a vote on a pair of answers; `result` is null if the pair was skipped."""
    return (
        isinstance(value, dict)
        and all(_is_str(value.get(name)) for name in ("pair", "against", "choice"))
        and "result" in value
        and (value["result"] is None or (_is_str(value["result"]) and value["result"] in SHARES))
        and _list_of(_is_str)(value.get("reasons"))
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


_KIND_OF: Mapping[str, ValueKind] = MappingProxyType(
    {
        **dict.fromkeys(("phase", "stage", "device", "decision", "digest", "dataset", "lost", "on_nan"), _is_str),
        **dict.fromkeys(("repository", "revision", "kind", "commit", "url", "template", "file", "task"), _is_str),
        **dict.fromkeys(("reviewer", "page", "taken_by"), _is_str),
        **dict.fromkeys(("reason", "collapse", "best", "held_out_dataset", "test_dataset"), _optional(_is_str)),
        **dict.fromkeys(("time", "seconds", "work_seconds"), _is_time),
        **dict.fromkeys(("learning_rate", "lr_scale", "identical"), _is_finite),
        **dict.fromkeys(("processes", "steps", "tokens", "responses", "parameters"), _is_whole_number),
        **dict.fromkeys(("best_step", "back_to", "skipped_by_scaler"), _is_whole_number),
        **dict.fromkeys(
            ("train_rows", "held_out_rows", "left_out", "left_out_for_test", "bad_rows"), _is_whole_number
        ),
        **dict.fromkeys(("overlap", "preferences", "split"), _is_whole_number),
        "at_step": _optional(_is_whole_number),
        "opponent": _is_stage,
        **dict.fromkeys(("files", "objective", "origin", "judge"), _is_object),
        **dict.fromkeys(("notes", "held_out_notes", "origins"), _object_of(_is_object)),
        "versions": _object_of(_optional(_is_str)),
        **dict.fromkeys(("pairs", "position", "unscored"), _object_of(_is_whole_number)),
        **dict.fromkeys(("first", "last"), _object_of(_is_number)),
        "compute": _object_of(_is_finite),
        **dict.fromkeys(("isolation", "remarks", "to", "stages", "damaged"), _list_of(_is_str)),
        "rows": lambda value: _is_whole_number(value) or _is_list(value),  # their number, or those that diverged
        "points": _list_of(_is_point),
        "votes": _list_of(_is_vote),
        "rejected": lambda value: isinstance(value, bool),
        "skipped": _list_of(_is_object),
    }
)
"""Kinds of values by key, in entries of all steps. Keys that are not listed may have any value."""


def wrong_value(entry: Mapping[str, Any]) -> str | None:
    """Return the first key of an entry whose value is not of its kind; None if there is none."""
    return next((name for name, value in entry.items() if name in _KIND_OF and not _KIND_OF[name](value)), None)
