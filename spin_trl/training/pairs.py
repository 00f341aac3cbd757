"""Pairs are rows: (key, iteration, sample). Counts what is degenerate, drops it if so set, and names the result."""

from __future__ import annotations

import hashlib
import logging
from array import array
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..config.iteration import SPINConfig
from ..counts import agreeing
from ..data.arrow import load_saved_rows, save_rows
from ..data.caches import CACHES, drop_damaged, is_whole_folder, note_folder
from ..errors import GenerationsError
from ..files import whole_folder
from ..generation.store import Generations, Name

logger = logging.getLogger(__name__)

MOSTLY_IDENTICAL = 0.9
"""Share of identical pairs above which the few that differ decide everything, and a warning is due."""


@dataclass(frozen=True)
class PairCounts:
    """What the generations of an iteration are like, before anything is dropped.

    Attributes:
        total: pairs.
        empty: generated responses without a token before EOS.
        truncated: generated responses that were cut before EOS.
        identical: generated responses that are the real one, token by token.
        dropped: pairs left out by `empty_generations`, `truncated_generations` or `identical_generations`.
    """

    total: int
    empty: int
    truncated: int
    identical: int
    dropped: int


def pair(rows: Dataset, generations: Generations, args: SPINConfig, prefix: str = "") -> tuple[Dataset, PairCounts]:
    """Give every row its generations, of all iterations and samples that there are.

    Args:
        rows: prepared rows.
        generations: by (key, iteration, sample).
        args: what is dropped.
        prefix: goes before every key, in a trainer that holds several datasets.

    Returns:
        One row a pair, with `key`, `iteration`, `sample`, `prompt_ids` and `real_ids`; and the counts. The dataset's
        fingerprint is a hash of all tokens of all pairs, so that nothing that is cached for other generations fits.

    Raises:
        GenerationsError: a row has no generation, or nothing is left.
    """
    by_key: dict[str, list[Name]] = {}
    for name in generations:
        by_key.setdefault(name[0], []).append(name)
    indices, iterations, samples = array("q"), array("q"), array("q")
    counts = {"total": 0, "empty": 0, "truncated": 0, "identical": 0}
    fingerprint = hashlib.sha256(f"{prefix}{generations.digest}".encode())
    columns = rows["key"], rows["prompt_ids"], rows["real_ids"]
    for index, (key, prompt_ids, real_ids) in enumerate(zip(*columns, strict=True)):
        names = by_key.get(key)
        if not names:
            raise GenerationsError(
                f"Row {index} of the dataset (key {key}) has no generation: the generations were made from another dataset."
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
    """Keep pairs as Arrow files, under their fingerprint: memory stays flat, and cached log-probs lie beside them.

    What is damaged of either goes, and is made again.

    Args:
        pairs: of [`pair`].
        folder: under which they are kept, and found again.
    """
    place = folder / pairs._fingerprint
    if not is_whole_folder(place):
        if place.exists():
            logger.warning("%s is damaged, or was written by an earlier version. The pairs are written again.", place)
        with whole_folder(place) as unfinished:
            note_folder(unfinished, save_rows(pairs, unfinished))
    drop_damaged(place.glob(CACHES))
    kept = load_saved_rows(place)
    kept._fingerprint = pairs._fingerprint
    return kept


def _report(counts: PairCounts) -> None:
    if counts.total == counts.dropped:
        raise GenerationsError(
            f"{agreeing(counts.total, 'The only pair was', f'All {counts.total:,} pairs were')} dropped ({counts.empty} "
            f"empty, {counts.truncated} truncated, {counts.identical} identical to the real response): nothing is "
            "left to train on."
        )
    if counts.identical > MOSTLY_IDENTICAL * counts.total:
        logger.warning(
            "%d of %d generated responses are the real ones: the few pairs that differ decide everything, and the model "
            "has little left to learn from this data.",
            counts.identical,
            counts.total,
        )
    if counts.empty > counts.total / 2:
        logger.warning("%d of %d generated responses are empty.", counts.empty, counts.total)
    if counts.truncated > counts.total / 2:
        logger.warning(
            "%d of %d generated responses were cut before their end; raise `max_new_tokens` or `max_length`.",
            counts.truncated,
            counts.total,
        )
