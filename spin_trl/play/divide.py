"""Divides a run's prepared rows into those that it trains on and those that are held out."""

from __future__ import annotations

from datasets import Dataset

from ..config.loop import SelfPlayConfig
from ..counts import counted
from ..data.held_out import DROP_TRAIN, separate, split_held_out


def divide(play: SelfPlayConfig, rows: Dataset, held_out: Dataset | None) -> tuple[Dataset, Dataset, list[str]]:
    """Divide prepared rows into those that are trained on and those that are held out.

    Args:
        play: the loop's settings.
        rows: rows of the training data.
        held_out: rows of the held-out data; None: a fraction of the prompts is held out.

    Returns:
        Rows to train on, held-out rows, and remarks on the split.

    Raises:
        DataError: if the datasets share prompts and the settings refuse that, or removing shared prompts leaves no rows.
    """
    if held_out is not None:
        return _without_overlap(play, rows, held_out)
    train, out = split_held_out(rows, play.held_out_fraction, play.held_out_max)
    return train, out, _remarks_on_split(play, train, out)


def _without_overlap(play: SelfPlayConfig, rows: Dataset, held_out: Dataset) -> tuple[Dataset, Dataset, list[str]]:
    """Return the rows to train on and the held-out rows without their overlap, and remarks on what was removed."""
    most, overlap = play.held_out_max, play.held_out_overlap
    if overlap == DROP_TRAIN:  # prompts that are not evaluated on may be trained on
        held_out = held_out.select(range(min(len(held_out), most)))
    rows, held_out, dropped = separate(rows, held_out, overlap)
    held_out = held_out.select(range(min(len(held_out), most)))
    if not dropped:
        return rows, held_out, []
    side, why = ("training", "held out") if overlap == DROP_TRAIN else ("held-out", "trained on")
    are, theirs, they = ("is", "its prompt is", "it is") if dropped == 1 else ("are", "their prompts are", "they are")
    news = (
        f"{counted(dropped, 'row')} of the {side} data {are} left out: {theirs} also in the other data, so {they} {why} "
        f"(`held_out_overlap: {overlap}`)."
    )
    return rows, held_out, [news]


def _remarks_on_split(play: SelfPlayConfig, rows: Dataset, held_out: Dataset) -> list[str]:
    """Return a remark if nothing could be held out."""
    if not play.held_out_fraction or len(held_out):
        return []
    count = len(set(rows["prompt_hash"]))
    return [
        f"No prompt is held out, so no iteration is evaluated and the last one counts as the best: ignoring case and white "
        f"space, the data has only {counted(count, 'distinct prompt')}. Set `held_out_name`, or check whether a column of "
        "the data is missing from the prompts."
    ]
