"""Shards that are being generated: responses are collected until their shard is complete, and then stored.

An engine that does not repeat its responses (see [`Engine`]) may finish micro-batches in any order, and works on many at a
time. What it has finished is final, so until its shard is complete it is kept in a file of lines, which outlives a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..json_lines import DamagedLineError, JsonLines
from .engine import MicroBatch, Response
from .store import GenerationStore
from .work import GenerationWork

logger = logging.getLogger(__name__)

_REASONS = ("eos", "length")


class OpenShards:
    """The shards that a process still has to generate.

    Args:
        store: store that the responses are written to.
        rows: prepared rows, with `key` and `prompt_ids`.
        work: everything that is generated into the store.
        numbers: numbers of the shards that are not stored yet.
    """

    def __init__(self, store: GenerationStore, rows: Dataset, work: GenerationWork, numbers: Sequence[int]) -> None:
        self._store, self._work, self._numbers = store, work, numbers
        self._rows = rows.select_columns(["key", "prompt_ids"])
        self._kept = {number: KeptResponses(store.kept(number)) for number in numbers if store.kept(number).exists()}
        self._found: dict[int, dict[int, list[Response]]] = {
            number: kept.read(work, number) for number, kept in self._kept.items()
        }
        kept = sum(len(responses) for found in self._found.values() for responses in found.values())
        self.lacking = work.responses_in(numbers) - kept
        """The number of responses that are to be generated."""

    def todo(self, seed: Callable[[int], int]) -> Iterator[MicroBatch]:
        """Yield the micro-batches that are to be generated, in order.

        Args:
            seed: function that returns a micro-batch's seed.
        """
        for shard in self._numbers:
            found = self._found.setdefault(shard, {})
            self._close_if_complete(shard)
            for number in self._work.shard(shard):
                if number not in found:
                    prompts = [self._rows[task.row]["prompt_ids"] for task in self._work.batches[number]]
                    yield MicroBatch(number, prompts, seed(number))

    def add(self, number: int, responses: list[Response], *, keep: bool) -> None:
        """Add the responses of a micro-batch, and store its shard if it is complete.

        Args:
            number: number of the micro-batch.
            responses: its responses, in the order of its prompts.
            keep: whether to keep the responses in a file until their shard is complete.

        Raises:
            ValueError: if there are more or fewer responses than prompts.
            OSError: if the disk is full.
        """
        if len(responses) != len(self._work.batches[number]):
            raise ValueError(
                f"Micro-batch {number} has {len(self._work.batches[number])} prompts, not {len(responses)}."
            )
        shard = self._work.shard_of(number)
        self._found[shard][number] = responses
        if keep and len(self._found[shard]) < len(self._work.shard(shard)):
            if shard not in self._kept:
                self._kept[shard] = KeptResponses(self._store.kept(shard))
            self._kept[shard].add(number, responses)
        self._close_if_complete(shard)

    def _close_if_complete(self, shard: int) -> None:
        numbers = self._work.shard(shard)
        if len(self._found[shard]) < len(numbers):
            return
        found = self._found.pop(shard)
        self._store.write_shard(
            shard,
            [
                (self._rows[task.row]["key"], task.sample, response)
                for number in numbers
                for task, response in zip(self._work.batches[number], found[number], strict=True)
            ],
        )
        self._kept.pop(shard, None)
        self._store.kept(shard).unlink(missing_ok=True)


class KeptResponses:
    """The finished responses of a shard that is not complete, one line a micro-batch.

    Args:
        path: path of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = JsonLines(path, _wrong, is_synced=False)

    def add(self, number: int, responses: Sequence[Response]) -> None:
        """Append the responses of a micro-batch.

        Raises:
            OSError: if the disk is full.
        """
        self._lines.append({"batch": number, "responses": [[made.ids, made.finish_reason] for made in responses]})

    def read(self, work: GenerationWork, shard: int) -> dict[int, list[Response]]:
        """Return the responses by micro-batch. A damaged file is removed, with a warning: its prompts are answered again.

        Args:
            work: everything that is generated into the store.
            shard: number of the shard.
        """
        try:
            lines = self._lines.read()
        except DamagedLineError as error:
            logger.warning("%s. Its prompts are answered again.", error)
            self._path.unlink()
            return {}
        found = {line["batch"]: [Response(ids, reason) for ids, reason in line["responses"]] for line in lines}
        numbers = work.shard(shard)
        return {
            number: responses
            for number, responses in found.items()
            if number in numbers and len(responses) == len(work.batches[number])
        }


def _wrong(line: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a line of kept responses, or None."""
    if type(line.get("batch")) is not int:
        return f"`batch` is {line.get('batch')!r}"
    responses = line.get("responses")
    if not isinstance(responses, list) or not all(map(_is_response, responses)):
        return "`responses` are not token ids with the reason why they ended"
    return None


def _is_response(found: Any) -> bool:
    if not isinstance(found, list) or len(found) != 2:
        return False
    ids, reason = found
    return reason in _REASONS and isinstance(ids, list) and all(type(one) is int and 0 <= one < 2**31 for one in ids)
