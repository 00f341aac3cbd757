"""Tells a null that stands in the data from one that Arrow has filled in.

Arrow keeps objects as structs, which have the same keys in every row: where one row's tool is called with `city` and
another's with `id`, both calls have both keys, one of them null. A message's field that is null is absent, but among the
arguments of a tool call a null may be meant. With JSON files there is no such doubt: `datasets` keeps objects that differ as
JSON.
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
"""By function, the arguments that some call of it gives a value."""

_MESSAGE_COLUMNS = ("messages", "conversations", "prompt", "completion")


def given_arguments(dataset: Dataset) -> Keys:
    """The arguments that each function is called with, where Arrow keeps arguments as structs; else nothing.

    What stays in doubt is said: an argument that a function is given in some rows and is null in others.
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
            "Arguments of tool calls that are null in some rows are taken as null (%s). Arrow can't tell them from "
            "arguments that are left out; JSON lines can, and so can arguments that are JSON text.",
            named,
        )
    return {name: frozenset(keys) for name, keys in found.items()}


def without_foreign(arguments: Mapping[str, Any], function: str, given: Keys) -> dict[str, Any]:
    """Arguments without the nulls that stand for an argument of another function.

    A null stays if the function is given that argument elsewhere, or if no function is: then somebody has written it down.
    """
    own = given.get(function, frozenset())
    others = frozenset().union(*(keys for name, keys in given.items() if name != function))
    return {key: value for key, value in arguments.items() if value is not None or key not in others - own}


def _has_struct(feature: Any) -> bool:
    """Whether a column's messages have tool calls with arguments as a struct."""
    message = _element(feature)
    call = _element(message.get("tool_calls")) if isinstance(message, dict) else None
    function = call.get("function") if isinstance(call, dict) else None
    holder = function if isinstance(function, dict) else call
    return isinstance(holder, dict) and isinstance(holder.get("arguments"), dict)


def _element(feature: Any) -> Any:
    """What a list's elements are."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _calls(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for messages in row.values():
        for message in messages or []:
            for call in (message or {}).get("tool_calls") or []:
                function = (call or {}).get("function") or call or {}
                with contextlib.suppress(DataError):  # which the row will raise again
                    arguments = value_in(function.get("arguments"), "")
                    if isinstance(arguments, Mapping):
                        yield str(function.get("name")), arguments
