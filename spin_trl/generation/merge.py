"""Merge the parts of a store that several machines have generated, each into a folder of its own.

A part is a store with the manifest of the whole that holds only its own shards. So machines need nothing but a shared disk,
and none waits for another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset

from ..counts import counted, listed
from ..errors import GenerationsError
from .parts import GenerationPart
from .store import GenerationStore
from .work import GenerationWork

MOST_LISTED = 10
"""Maximum number of shards or keys that a message lists."""


def merge(
    parts: Mapping[GenerationPart, GenerationStore], whole: GenerationStore, rows: Dataset, expected: Mapping[str, Any]
) -> None:
    """Copy the shards of all parts into one store, once they are known to be complete and of the same work.

    Args:
        parts: stores of the parts.
        whole: store that receives the shards. It may already hold some of them, from an interrupted call.
        rows: prepared rows, with `key` and `prompt_ids`.
        expected: fields of the [`Manifest`] that are known otherwise, such as the digest of the data.

    Raises:
        GenerationsError: if a manifest differs from the others or from what is expected; a shard is missing, damaged, or in
            two parts; or a shard does not hold exactly the responses that belong in it.
    """
    first, *others = sorted(parts.items(), key=lambda item: (item[0].count, item[0].number))
    manifest = first[1].manifest()
    first[1].check(expected)
    for _, store in others:
        # What is measured anew for every part is never equal to the last digit; split responses are counted for each part.
        store.check({name: value for name, value in manifest.items() if name not in ("served", "split")})
    sampling = manifest["sampling"]
    work = GenerationWork.of(rows, sampling["num_generations"], sampling["batch_size"])
    if work.num_shards != manifest["num_shards"]:
        raise GenerationsError(
            f"{first[1].folder} is a part of {counted(manifest['num_shards'], 'shard')}, but the prompts with these "
            f"settings make {work.num_shards}. Generate the parts again, with the version of this package that merges them."
        )
    held_by = _holders(parts, manifest["num_shards"])
    keys: list[str] = rows["key"][:]
    for number, store in enumerate(held_by):
        _check_shard(store.shard(number), store, number, work, keys)
    whole.adopt(manifest)
    for number in whole.missing_shards():
        whole.copy_shard(number, held_by[number])
    whole.note_split()


def _holders(parts: Mapping[GenerationPart, GenerationStore], num_shards: int) -> list[GenerationStore]:
    """Return the store that holds each shard.

    Raises:
        GenerationsError: if shards are missing, or in two parts.
    """
    holders: dict[int, list[GenerationPart]] = defaultdict(list)
    for part, store in parts.items():
        for number in set(range(num_shards)) - set(store.missing_shards()):
            holders[number].append(part)
    wrong = []
    if missing := [number for number in range(num_shards) if number not in holders]:
        counts = {part.count for part in parts}
        tasks = sorted({number % min(counts) + 1 for number in missing})
        which = (
            f"; generate {listed([f'{task}/{min(counts)}' for task in tasks], MOST_LISTED)}"
            if len(counts) == 1
            else ""
        )
        wrong.append(
            f"{counted(len(missing), 'shard')} of {num_shards} missing ({listed(missing, MOST_LISTED)}){which}"
        )
    for number, of in sorted(holders.items()):
        if len(of) > 1:
            wrong.append(
                f"shard {number} is in {len(of)} parts: {', '.join(sorted(map(str, of)))}; delete all but one"
            )
    if wrong:
        raise GenerationsError(f"The parts can't be merged: {'; '.join(wrong[:MOST_LISTED])}.")
    return [parts[holders[number][0]] for number in range(num_shards)]


def _check_shard(
    table: pa.Table, store: GenerationStore, number: int, work: GenerationWork, keys: Sequence[str]
) -> None:
    wanted = {(keys[task.row], task.sample) for batch in work.shard(number) for task in work.batches[batch]}
    found = list(zip(table["key"].to_pylist(), table["sample"].to_pylist(), strict=True))
    wrong = {
        "missing": sorted(wanted - set(found)),
        "of another shard": sorted(set(found) - wanted),
        "double": sorted({name for name in found if found.count(name) > 1}) if len(found) > len(set(found)) else [],
    }
    if any(wrong.values()):
        described = "; ".join(
            f"{what}: {listed([f'{key} (sample {sample})' for key, sample in names], MOST_LISTED)}"
            for what, names in wrong.items()
            if names
        )
        raise GenerationsError(
            f"Shard {number} in {store.folder} does not hold the responses that belong in it ({described}). Delete the "
            "folder and generate this part again."
        )
