"""Arguments that may be passed to a chat template: its own variables, but no parameters of the function that applies it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

_PASSED_ON = frozenset({"documents", "kwargs"})
"""Parameters of `apply_chat_template` that are only passed on to the template."""

OF_APPLYING = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - _PASSED_ON
"""Parameters that control `apply_chat_template` itself, which generation and training set as they need."""


def wrong_arguments(names: Iterable[object]) -> str | None:
    """Return a sentence on what is wrong with the names of arguments for a template; None if they are fine."""
    found = [str(name) for name in names if name in OF_APPLYING]
    if not found:
        return None
    return (
        f"`chat_template_kwargs` has {', '.join(map(repr, found))}, which controls `apply_chat_template` itself and is set "
        "by self-play. Only variables of the template, like `enable_thinking`, are allowed."
    )
