"""Pairs are rows: (key, iteration, sample). Count degenerate pairs, drop them if configured, and fingerprint the result."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..config.iteration import SPINConfig
from ..counts import agreeing, counted
from ..data.arrow import load_saved_rows, save_rows
from ..data.caches import CACHES, drop_damaged, is_whole_folder, note_folder
from ..errors import GenerationsError
from ..files import whole_folder
from ..generation.generations import Generations, Name

logger = logging.getLogger(__name__)

MOSTLY_IDENTICAL = 0.5
"""Share of identical pairs above which a warning is logged, because the other pairs alone decide the iteration."""


@dataclass(frozen=True)
class PairCounts:
    """Counts of an iteration's generations, before anything is dropped.

    Attributes:
        total: number of pairs.
        empty: generated responses without a token before EOS.
        truncated: generated responses that were cut before EOS.
        identical: generated responses equal to the real one, token by token.
        dropped: pairs dropped by `empty_generations`, `truncated_generations` or `identical_generations`.
        tokens: unique tokens of the pairs that were not dropped: prompts and responses, their common beginnings once.
    """

    total: int
    empty: int
    truncated: int
    identical: int
    dropped: int
    tokens: int


def pair(rows: Dataset, generations: Generations, args: SPINConfig, prefix: str = "") -> tuple[Dataset, PairCounts]:
    """Pair every row with all its generations, over all iterations and samples.

    Args:
        rows: prepared rows.
        generations: generated token ids by (key, iteration, sample).
        args: settings that decide what is dropped.
        prefix: prefix of every key, in a trainer that holds several datasets.

    Returns:
        One row per pair, with `key`, `iteration`, `sample`, `prompt_ids` and `real_ids`; and the counts. The dataset's
        fingerprint is a hash of all tokens of all pairs, so anything cached for other generations never matches it.

    Raises:
        GenerationsError: if a row has no generation, or no pair is left.
    """
    by_key: dict[str, list[Name]] = {}
    for name in generations:
        by_key.setdefault(name[0], []).append(name)
    indices, iterations, samples = array("q"), array("q"), array("q")
    counts = {"total": 0, "empty": 0, "truncated": 0, "identical": 0, "tokens": 0}
    fingerprint = hashlib.sha256(f"{prefix}{generations.digest}".encode())
    columns = rows["key"], rows["prompt_ids"], rows["real_ids"]
    for index, (key, prompt_ids, real_ids) in enumerate(zip(*columns, strict=True)):
        names = by_key.get(key)
        if not names:
            raise GenerationsError(
                f"Row {index} of the dataset (key {key}) has no generation: the generations belong to another dataset."
            )
        fingerprint.update(repr((key, prompt_ids, real_ids)).encode())
        for name in sorted(names):
            generated_ids, reason = generations[name], generations.finish_reasons.get(name)
            found = {
                "empty": len(generated_ids) <= (reason == "eos") or generated_ids == real_ids[-1:],
                "truncated": reason == "length",
                "identical": generated_ids == real_ids,
            }
            counts["total"] += 1
            for kind, is_so in found.items():
                counts[kind] += is_so
            if not any(is_so and getattr(args, f"{kind}_generations") == "drop" for kind, is_so in found.items()):
                counts["tokens"] += len(prompt_ids) + _unique_tokens(real_ids, generated_ids)
                indices.append(index)
                iterations.append(name[1])
                samples.append(name[2])
    result = PairCounts(**counts, dropped=counts["total"] - len(indices))
    _report(result)
    keys = rows["key"][:]
    pairs = rows.select_columns(["prompt_ids", "real_ids"]).select(indices)
    pairs = pairs.add_column("key", [prefix + keys[index] for index in indices])
    pairs = pairs.add_column("iteration", list(iterations)).add_column("sample", list(samples))
    fingerprint.update(indices.tobytes())
    pairs._fingerprint = fingerprint.hexdigest()[:16]
    return pairs, result


def on_disk(pairs: Dataset, folder: Path) -> Dataset:
    """Store pairs as Arrow files, under their fingerprint, so that memory stays flat and cached log-probs lie next to them.

    Damaged files of either kind are deleted and written again.

    Args:
        pairs: result of [`pair`].
        folder: directory under which they are stored and found again.
    """
    place = folder / pairs._fingerprint
    if not is_whole_folder(place):
        if place.exists():
            logger.warning("%s is damaged or was written by an earlier version. Writing the pairs again.", place)
        with whole_folder(place) as unfinished:
            note_folder(unfinished, save_rows(pairs, unfinished))
    drop_damaged(place, CACHES)
    kept = load_saved_rows(place)
    kept._fingerprint = pairs._fingerprint
    return kept


def _unique_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens of two responses to a prompt, counting their common beginning once."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = next((place for place, (token, others) in pairs if token != others), min(len(one), len(other)))
    return len(one) + len(other) - shared


def _report(counts: PairCounts) -> None:
    if counts.total == counts.dropped:
        raise GenerationsError(
            f"{agreeing(counts.total, 'The only pair was', f'All {counts.total:,} pairs were')} dropped ({counts.empty} "
            f"empty, {counts.truncated} truncated, {counts.identical} identical to the real response): nothing is "
            "left to train on."
        )
    different = counts.total - counts.identical
    if counts.identical > MOSTLY_IDENTICAL * counts.total:
        logger.warning(
            "%d of %d generated responses are identical to the real ones, so %s alone decide%s the iteration. After SFT on "
            "the same rows, SFT for fewer epochs, or self-play on prompts that SFT has not seen, leaves more to learn.",
            *(counts.identical, counts.total, counted(different, "pair"), agreeing(different, "s", "")),
        )
    if counts.empty > counts.total / 2:
        logger.warning("%d of %d generated responses are empty.", counts.empty, counts.total)
    if counts.truncated > counts.total / 2:
        logger.warning(
            "%d of %d generated responses were truncated; raise `max_new_tokens` or `max_length`.",
            counts.truncated,
            counts.total,
        )
