"""Generations in any of the forms in which a user may have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from datasets import Dataset

from ..errors import GenerationsError
from .store import Generations, GenerationStore

GenerationSource: TypeAlias = str | Path | GenerationStore | Mapping[int, GenerationStore] | Generations | Dataset
"""A folder or store that a generate phase wrote; stores by iteration; generations; or a dataset with `key` and `ids`."""


def read_generations(source: GenerationSource, check: Callable[[GenerationStore], None]) -> Generations:
    """Read generations.

    Args:
        source: where they are.
        check: called with the store of the newest iteration, whose model is the opponent; raises if it is another's.

    Raises:
        GenerationsError: they are missing, incomplete or damaged, or the check refuses them.
    """
    if isinstance(source, Generations):
        return source
    if isinstance(source, Dataset):
        return Generations.from_dataset(source)
    if isinstance(source, str | Path | GenerationStore):
        store = source if isinstance(source, GenerationStore) else GenerationStore(source)
        source = {store.manifest()["iteration"]: store}
    check(source[max(source)])
    return Generations.load(source)


def read_proto(source: GenerationSource, check: Callable[[GenerationStore], None]) -> Generations:
    """Read θ_0's generations, which iteration 0 made.

    Args:
        source: where they are.
        check: called with their store, if they have one; raises if it is of other data.

    Raises:
        GenerationsError: they are missing or damaged, of another iteration, or the check refuses them.
    """
    found = read_generations(source, check)
    iterations = {iteration for _, iteration, _ in found}
    if iterations - {0}:
        raise GenerationsError(
            f"`proto` is what iteration 0 generated, but these are of the iterations {sorted(iterations)}."
        )
    return found
