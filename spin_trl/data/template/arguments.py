"""Which arguments a chat template may be given: variables of its own, and none of the function that applies it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

_PASSED_ON = frozenset({"documents", "kwargs"})
"""Parameters of `apply_chat_template` that only pass on what a template asks for."""

OF_APPLYING = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - _PASSED_ON
"""Parameters that say what `apply_chat_template` does. Generation and training set them, each as it needs."""


def wrong_arguments(names: Iterable[object]) -> str | None:
    """What is wrong with the names of arguments for a template, as a sentence; None if nothing is."""
    found = [str(name) for name in names if name in OF_APPLYING]
    if not found:
        return None
    return (
        f"`chat_template_kwargs` has {', '.join(map(repr, found))}, which `apply_chat_template` takes for itself, and "
        "self-play sets or leaves out. It is for variables of the template, like `enable_thinking`."
    )
