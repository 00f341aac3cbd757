"""Keep held-out prompts separate from those that are trained on.

Prompts that only differ in case and white space are the same prompt to a model, so they form a group that stays on one side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..counts import agreeing, counted
from ..errors import DataError
from ..files import json_digest
from .template.markers import text_of

if TYPE_CHECKING:  # settings name what this module knows, and `datasets` takes a second to import, numpy a tenth
    from datasets import Dataset

GROUP = "prompt_group"
"""Column of newly prepared rows: hash of the prompt's text, ignoring case and white space."""

DROP_TRAIN, DROP_HELD_OUT, REFUSE_OVERLAP = OVERLAP = "drop_train", "drop_held_out", "refuse"
"""What to do with prompts of a held-out dataset that are also trained on."""

_NOTHING_LEFT = {
    DROP_TRAIN: (
        "All prompts of the training data are held out ({rows}), so nothing is left to train on. Name other held-out data, "
        "leave out `held_out_name` to hold out a share of the prompts instead, or set `held_out_overlap: drop_held_out`."
    ),
    DROP_HELD_OUT: (
        "All held-out prompts are also in the training data ({rows}), so nothing is left to evaluate on. Name other "
        "held-out data, or set `held_out_overlap: drop_train`."
    ),
}


def group_of(prompt: str | list[dict[str, Any]]) -> str:
    """Return a hash of a prompt's text that ignores case and white space.

    A single user message counts as its text, since the same question is often text in one file and a message in another.
    Content in parts always counts as its text, and a key without a value counts as absent.

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
    """Split prepared rows into training rows and held-out rows.

    The prompts with the smallest hashes are held out, so the choice only depends on the prompts. All rows of a prompt land
    on the same side, and so do prompts that only differ in case and white space: the smallest hash among them decides.

    Args:
        rows: prepared rows.
        fraction: share of the distinct prompts to hold out; at least one prompt if there are two and the share is not 0.
        most: maximum number of prompts to hold out.

    Returns:
        Training rows and held-out rows.
    """
    import numpy as np

    prompts, prompt_of = np.unique(_texts(rows, "prompt_hash"), return_inverse=True)
    first = group_of_row = prompt_of
    if GROUP in rows.column_names:
        _, first, group_of_row = np.unique(_texts(rows, GROUP), return_index=True, return_inverse=True)
    # The distinct prompts of each group, smallest hash first.
    pairs = np.unique(group_of_row * len(prompts) + prompt_of)
    groups, smallest_at, sizes = np.unique(pairs // len(prompts), return_index=True, return_counts=True)
    in_order = np.lexsort((first[groups], pairs[smallest_at] % len(prompts)))
    number = len(pairs)
    count = min(max(round(fraction * number), 1), most, number - 1) if fraction else 0
    held_out = np.zeros(len(groups), dtype=bool)
    for group in in_order:
        # Skip a group that is too large for the remaining places, so that a large group does not fill them all.
        if 0 < sizes[group] <= count:
            held_out[group] = True
            count -= sizes[group]
    if count and not held_out.any() and len(groups) > 1:
        smallest = in_order[np.argmin(sizes[in_order])]
        held_out[smallest] = sizes[smallest] <= most
    is_held_out = held_out[group_of_row]
    return rows.select(np.flatnonzero(~is_held_out)), rows.select(np.flatnonzero(is_held_out))


def _texts(rows: Dataset, column: str) -> Any:
    """Return a column of short ASCII texts as an array: as Python objects, they would take five times the memory."""
    import numpy as np

    batches = rows.select_columns([column]).iter(batch_size=1000)
    return np.concatenate([np.array(batch[column], dtype=np.bytes_) for batch in batches])


def without_groups(rows: Dataset, groups: Collection[str]) -> tuple[Dataset, int]:
    """Return prepared rows without those whose prompts are in some groups, and the number of rows that were left out."""
    kept = [index for index, group in enumerate(rows[GROUP][:]) if group not in groups]
    return (rows, 0) if len(kept) == len(rows) else (rows.select(kept), len(rows) - len(kept))


def refuse_shared(rows: Dataset, groups: Collection[str], name: str, other: str) -> None:
    """Raise if a prompt of these rows is in one of some groups.

    Args:
        rows: prepared rows.
        groups: groups of the prompts of the other data.
        name, other: names of the rows' dataset and of the other data, for the message.

    Raises:
        DataError: if there is one; the message gives the first and the number of all.
    """
    found = rows[GROUP][:]
    shared = [index for index, group in enumerate(found) if group in groups]
    if not shared:
        return
    count = len({found[index] for index in shared})
    raise DataError(
        f"{counted(count, f'{name} prompt is', f'{name} prompts are')} also in the {other} data (ignoring case and white "
        f"space). The first is {rows[shared[0]]['prompt'][:60]!r}. Remove {agreeing(count, 'it', 'them')}, or set "
        "`held_out_overlap: drop_train` or `drop_held_out`."
    )


def separate(rows: Dataset, held_out: Dataset, overlap: str) -> tuple[Dataset, Dataset, int]:
    """Ensure that no prompt is both trained on and held out.

    Args:
        rows: prepared rows to train on.
        held_out: prepared rows of another dataset, to evaluate on.
        overlap: one of `OVERLAP`: the side that drops prompts that are on both sides, or `refuse`.

    Returns:
        Training rows, held-out rows, and the number of rows that were left out.

    Raises:
        DataError: if prompts are on both sides and `overlap` is `refuse`, or nothing is left on the side that drops them.
    """
    train_groups, held_out_groups = rows[GROUP][:], held_out[GROUP][:]
    shared = set(train_groups) & set(held_out_groups)
    if not shared:
        return rows, held_out, 0
    if overlap == REFUSE_OVERLAP:
        refuse_shared(held_out, shared, "held-out", "training")
    side, groups = (rows, train_groups) if overlap == DROP_TRAIN else (held_out, held_out_groups)
    kept = [index for index, group in enumerate(groups) if group not in shared]
    if not kept:
        raise DataError(_NOTHING_LEFT[overlap].format(rows=counted(len(side), "row")))
    left, dropped = side.select(kept), len(side) - len(kept)
    return (left, held_out, dropped) if overlap == DROP_TRAIN else (rows, left, dropped)
