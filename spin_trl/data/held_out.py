"""Keeps held-out prompts apart from those that are trained on.

Prompts that differ in case and white space alone are one prompt to a model: they form a group, which stays on one side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..counts import agreeing, counted
from ..errors import DataError
from ..files import json_digest
from .template.markers import text_of

if TYPE_CHECKING:  # settings name what this module knows, and `datasets` takes a second to import, numpy a tenth
    from datasets import Dataset

GROUP = "prompt_group"
"""Column of rows that have just been prepared: hash of the prompt's text, without regard to case and white space."""

DROP_TRAIN, DROP_HELD_OUT, REFUSE_OVERLAP = OVERLAP = "drop_train", "drop_held_out", "refuse"
"""What to do with prompts of a held-out dataset that are trained on, too."""

_NOTHING_LEFT = {
    DROP_TRAIN: (
        "Every prompt of the training data is held out ({rows}), so nothing is left to train on. Name other held-out data, "
        "leave `held_out_name` out (a share of the prompts is held out then), or set `held_out_overlap: drop_held_out`."
    ),
    DROP_HELD_OUT: (
        "Every held-out prompt is trained on, too ({rows}). Name other held-out data, or set `held_out_overlap: drop_train`."
    ),
}


def group_of(prompt: str | list[dict[str, Any]]) -> str:
    """Hash of a prompt's text, equal for prompts that differ in case and white space alone.

    One message of a user counts as its text: the same question is often text in one file and a message in another. So does
    content in parts, whatever messages are around it, and a key without a value counts as absent.

    Args:
        prompt: text, or the messages before the response.
    """
    content: Any = prompt
    if not isinstance(prompt, str):
        messages = [dict(message) for message in prompt]
        for message in messages:
            if isinstance(message.get("content"), list):
                message["content"] = text_of(message["content"])
        is_question = len(messages) == 1 and messages[0].get("role") == "user"
        content = messages[0].get("content") if is_question else messages
    return json_digest(_folded(content), 20)


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, Mapping):
        return {name: _folded(part) for name, part in value.items() if part is not None}
    return [_folded(part) for part in value] if isinstance(value, list | tuple) else value


def split_held_out(rows: Dataset, fraction: float, most: int) -> tuple[Dataset, Dataset]:
    """Split prepared rows into those to train on and held-out ones.

    The prompts with the smallest hashes are held out, so the choice depends on nothing but the prompts. All rows of one
    prompt land on the same side, and so do prompts that differ in case and white space alone: the smallest hash decides for
    them all.

    Args:
        rows: prepared rows.
        fraction: share of the distinct prompts to hold out; at least one, if there are two and the share is not 0.
        most: upper bound on their number.

    Returns:
        Rows to train on, and held-out rows.
    """
    import numpy as np

    prompts, prompt_of = np.unique(_texts(rows, "prompt_hash"), return_inverse=True)
    first = group_of_row = prompt_of
    if GROUP in rows.column_names:
        _, first, group_of_row = np.unique(_texts(rows, GROUP), return_index=True, return_inverse=True)
    # Each group's prompts, once each, the smallest first.
    pairs = np.unique(group_of_row * len(prompts) + prompt_of)
    groups, smallest_at, sizes = np.unique(pairs // len(prompts), return_index=True, return_counts=True)
    in_order = np.lexsort((first[groups], pairs[smallest_at] % len(prompts)))
    number = len(pairs)
    count = min(max(round(fraction * number), 1), most, number - 1) if fraction else 0
    held_out = np.zeros(len(groups), dtype=bool)
    for group in in_order:
        # One that would be too many makes room for the next, so that a large group does not stand for all.
        if 0 < sizes[group] <= count:
            held_out[group] = True
            count -= sizes[group]
    if count and not held_out.any() and len(groups) > 1:
        smallest = in_order[np.argmin(sizes[in_order])]
        held_out[smallest] = sizes[smallest] <= most
    is_held_out = held_out[group_of_row]
    return rows.select(np.flatnonzero(~is_held_out)), rows.select(np.flatnonzero(is_held_out))


def _texts(rows: Dataset, column: str) -> Any:
    """A column of short ASCII texts, in an array: as objects of Python they would take five times the memory."""
    import numpy as np

    batches = rows.select_columns([column]).iter(batch_size=1000)
    return np.concatenate([np.array(batch[column], dtype=np.bytes_) for batch in batches])


def separate(rows: Dataset, held_out: Dataset, overlap: str) -> tuple[Dataset, Dataset, int]:
    """See to it that no prompt is both trained on and held out.

    Args:
        rows: prepared rows to train on.
        held_out: prepared rows of another dataset, to evaluate on.
        overlap: of `OVERLAP`: which side gives up a prompt that is on both, or whether that is refused.

    Returns:
        Rows to train on, held-out rows, and how many rows were left out.

    Raises:
        DataError: prompts are on both sides and `overlap` is `refuse`, or nothing is left of the side that gives them up.
    """
    train_groups, held_out_groups = rows[GROUP][:], held_out[GROUP][:]
    shared = set(train_groups) & set(held_out_groups)
    if not shared:
        return rows, held_out, 0
    if overlap == REFUSE_OVERLAP:
        first = next(index for index, group in enumerate(held_out_groups) if group in shared)
        raise DataError(
            f"{counted(len(shared), 'held-out prompt is', 'held-out prompts are')} in the training data, too (up to case "
            f"and white space). The first is {held_out[first]['prompt'][:60]!r}. Remove "
            f"{agreeing(len(shared), 'it', 'them')}, or set `held_out_overlap: drop_train` or `drop_held_out`."
        )
    side, groups = (rows, train_groups) if overlap == DROP_TRAIN else (held_out, held_out_groups)
    kept = [index for index, group in enumerate(groups) if group not in shared]
    if not kept:
        raise DataError(_NOTHING_LEFT[overlap].format(rows=counted(len(side), "row")))
    left, dropped = side.select(kept), len(side) - len(kept)
    return (left, held_out, dropped) if overlap == DROP_TRAIN else (rows, left, dropped)
