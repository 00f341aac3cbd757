"""A share of the prompts, chosen at random but the same in every phase: the rows that SFT has seen, and the others."""

from __future__ import annotations

from datasets import Dataset

from ..files import parts_digest


def rows_of_share(rows: Dataset, share: float, seed: int, *, others: bool = False) -> Dataset:
    """Return the rows of a share of the prompts. Rows with the same prompt (ignoring case and white space) stay together.

    Args:
        rows: prepared rows.
        share: share of the distinct prompts, above 0; at least one prompt is chosen.
        seed: seed of the choice, which does not depend on the order of the rows.
        others: whether to return the rows of all other prompts instead.
    """
    if share >= 1 and not others:
        return rows
    hashes = rows["prompt_hash"][:]
    in_random_order = sorted(set(hashes), key=lambda prompt: parts_digest([str(seed), prompt]))
    chosen = set(in_random_order[: max(round(share * len(in_random_order)), 1)])
    return rows.select([row for row, prompt in enumerate(hashes) if (prompt in chosen) != others])
