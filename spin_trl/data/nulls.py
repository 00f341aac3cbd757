"""Distinguish nulls in the data from nulls that Arrow has filled in.

Arrow stores objects as structs, which have the same keys in every row: if one row calls a tool with `city` and another with
`id`, both calls have both keys, one of them null. A null field of a message counts as absent, but a null argument of a tool
call may be intended. JSON files do not have this problem: `datasets` stores objects with different keys as JSON.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset

from ..errors import DataError
from .arrow import rows_of
from .reading.json_text import value_in

logger = logging.getLogger(__name__)

Keys = Mapping[str, frozenset[str]]
"""Arguments that have a value in at least one call, by function."""

_MESSAGE_COLUMNS = ("messages", "conversations", "prompt", "completion")


def given_arguments(dataset: Dataset) -> Keys:
    """Return the arguments that each function is called with, if Arrow stores arguments as structs; else an empty mapping.

    A warning lists ambiguous cases: arguments of a function that have a value in some rows and are null in others.
    """
    columns = [name for name in _MESSAGE_COLUMNS if _has_struct(dataset.features.get(name))]
    if not columns:
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    nulls: dict[str, set[str]] = defaultdict(set)
    for row in rows_of(dataset.select_columns(columns)):
        for name, arguments in _calls(row):
            for key, value in arguments.items():
                (nulls if value is None else found)[name].add(key)
    doubtful = {name: sorted(keys & found[name]) for name, keys in nulls.items() if keys & found[name]}
    if doubtful:
        named = "; ".join(f"`{name}`: {', '.join(f'`{key}`' for key in keys)}" for name, keys in doubtful.items())
        logger.warning(
            "Arguments of tool calls that are null in some rows are treated as null (%s). Arrow can't distinguish them from "
            "arguments that are left out; JSON lines can, and so can arguments given as JSON text.",
            named,
        )
    return {name: frozenset(keys) for name, keys in found.items()}


def without_foreign(arguments: Mapping[str, Any], function: str, given: Keys) -> dict[str, Any]:
    """Remove nulls that Arrow has filled in for arguments of other functions.

    A null is kept if the function has that argument in another call, or if no function does: then it was given explicitly.
    """
    own = given.get(function, frozenset())
    others = frozenset().union(*(keys for name, keys in given.items() if name != function))
    return {key: value for key, value in arguments.items() if value is not None or key not in others - own}


def _has_struct(feature: Any) -> bool:
    """Return whether a column's messages have tool calls whose arguments are a struct."""
    message = _element(feature)
    call = _element(message.get("tool_calls")) if isinstance(message, dict) else None
    function = call.get("function") if isinstance(call, dict) else None
    holder = function if isinstance(function, dict) else call
    return isinstance(holder, dict) and isinstance(holder.get("arguments"), dict)


def _element(feature: Any) -> Any:
    """Return the feature of a list's elements."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _calls(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for messages in row.values():
        for message in messages or []:
            for call in (message or {}).get("tool_calls") or []:
                function = (call or {}).get("function") or call or {}
                with contextlib.suppress(DataError):  # preparing the row will raise it again
                    arguments = value_in(function.get("arguments"), "")
                    if isinstance(arguments, Mapping):
                        yield str(function.get("name")), arguments
