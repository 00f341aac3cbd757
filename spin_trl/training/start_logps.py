"""The start's log-probabilities of responses, which `opponent_mix` mixes into the opponent's (alpha-SPIN, arXiv 2404.04291).

The start never changes, so each response is scored once: real responses at the first iteration that mixes, and generated
ones when they are new. The results are kept in a folder, in one file per set of responses. A file's name contains a digest
of the start's weights and of all tokens, so other weights or other responses never meet old log-probabilities.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from ..config.iteration import SPINConfig
from ..files import json_digest, parts_digest, read_json, write_json
from ..generation.generations import Generations, Name
from ..models.adapters import Policy
from ..models.logps import response_logps
from .pair_lengths import truncated

logger = logging.getLogger(__name__)

START_LOGPS = ("start_real_logps", "start_generated_logps")
"""Columns of pairs, and keys of batches: the start's log-probabilities of both responses, in nats."""

OPPONENT_BATCH_FACTOR = 4
"""Batch size of passes that only score, over that of training, if `precompute_ref_batch_size` is not set: such a pass keeps
no activations."""

PromptAndResponse = tuple[list[int], list[int]]
"""Token ids of a prompt and of a response to it."""


class ResponseSet(Sequence[PromptAndResponse]):
    """Prompts with their responses, whose tokens are only read when they are needed, so that memory stays flat.

    Args:
        names: names of the responses.
        read: function that returns the tokens for a name.
    """

    def __init__(self, names: Sequence[Any], read: Callable[[Any], PromptAndResponse]) -> None:
        self.names, self._read = names, read

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> PromptAndResponse: ...

    @overload
    def __getitem__(self, place: slice) -> ResponseSet: ...

    def __getitem__(self, place: int | slice) -> PromptAndResponse | ResponseSet:
        return (
            ResponseSet(self.names[place], self._read) if isinstance(place, slice) else self._read(self.names[place])
        )

    def at(self, places: Iterable[int]) -> ResponseSet:
        """Return the responses at these places."""
        return ResponseSet([self.names[place] for place in places], self._read)


Scoring = Callable[[ResponseSet], list[float]]
"""Function that returns the log-probability of each response under the start, in nats; all processes call it together."""


def scoring_batch(args: SPINConfig, name: str = "train") -> int:
    """Return the number of pairs that a pass without gradients scores at once, for the dataset of this name."""
    size = args.per_device_train_batch_size if name == "train" else args.per_device_eval_batch_size
    return args.precompute_ref_batch_size or OPPONENT_BATCH_FACTOR * size


def score_together(
    model: Policy,
    responses: ResponseSet,
    *,
    pad_token_id: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> list[float]:
    """Return the log-probability of each response under a model, in nats. Processes share the work; each gets all results.

    Batches are fixed sets of responses, so the results do not depend on the number of processes.

    Args:
        model: a whole replica of the model on this process's device.
        responses: prompts and responses.
        pad_token_id, batch_size, autocast: as in [`response_logps`].
    """
    state = PartialState()
    lengths = [sum(map(len, one)) for one in responses]
    order = sorted(range(len(responses)), key=lengths.__getitem__)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    mine = [row for batch in batches[state.process_index :: state.num_processes] for row in batch]
    found = response_logps(
        model, responses.at(mine), pad_token_id=pad_token_id, batch_size=batch_size, autocast=autocast
    )
    every: dict[int, float] = {}
    for part in gather_object([dict(zip(mine, found, strict=True))]):
        every |= part
    return [every[row] for row in range(len(responses))]


@dataclass(frozen=True)
class StartLogps:
    """The start's log-probabilities of responses, each computed once and kept in a folder.

    Attributes:
        folder: folder of the files; it need not exist yet.
        model: digest of the start's weights.
        precision: mixed precision that responses are scored in: `no`, `bf16` or `fp16`.
        score: function that scores responses which the folder does not have.
    """

    folder: Path
    model: str
    precision: str
    score: Scoring

    def of(self, name: str, responses: ResponseSet) -> list[float]:
        """Return the log-probability of each response in nats, from the folder if it is known. All processes call this.

        Args:
            name: name of the set of responses, with which its file's name begins.
            responses: prompts and responses.
        """
        path = self.path(name, responses)
        is_main = PartialState().is_main_process
        # Only one process looks: the others could find a file that it has just written, or see another disk.
        (known,) = broadcast_object_list([_read_logps(path, len(responses)) if is_main else None])
        if known is not None:
            return [*known]
        found = self.score(responses)
        if is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"model": self.model, "checksum": json_digest(found), "logps": found})
        PartialState().wait_for_everyone()
        return found

    def knows(self, name: str, responses: ResponseSet) -> bool:
        """Return whether the folder has a file for a set of responses."""
        return self.path(name, responses).is_file()

    def path(self, name: str, responses: Iterable[PromptAndResponse]) -> Path:
        """Return the path of the file of a set of responses."""
        tokens = parts_digest(f"{prompt_ids}{response_ids}" for prompt_ids, response_ids in responses)
        return self.folder / f"{name}-{json_digest([self.model, self.precision, tokens])}.json"


StartSource: TypeAlias = str | Path | PreTrainedModel | PeftModel | StartLogps
"""The start: its folder or Hub name, the model in memory, or its log-probabilities as a run keeps them."""


def _read_logps(path: Path, count: int) -> list[float] | None:
    """Return the log-probabilities in a file; None if there is none, or it is damaged."""
    try:
        found = read_json(path)
        if found is None:
            return None
        logps = found["logps"]
        if len(logps) == count and found["checksum"] == json_digest(logps):
            return [float(logp) for logp in logps]
    except (OSError, ValueError, TypeError, KeyError):
        pass
    logger.warning("%s is damaged. The responses are scored again.", path)
    return None


def sets_of_responses(rows: Dataset, generations: Generations, args: SPINConfig) -> dict[str, ResponseSet]:
    """Return all responses to a dataset's prompts that pairs can be made of, as training sees them, in sets by name.

    Args:
        rows: prepared rows.
        generations: generated responses; those to other prompts are left out.
        args: settings of the iteration.

    Returns:
        The real responses by the row's key, and a set per iteration of the generated ones by (key, iteration, sample).
    """
    prompts, reals = rows["prompt_ids"], rows["real_ids"]
    places = {key: index for index, key in enumerate(rows["key"])}

    def real(key: str) -> PromptAndResponse:
        return truncated(prompts[places[key]], reals[places[key]], args.max_length, args.truncation_mode)

    def generated(name: Name) -> PromptAndResponse:
        return truncated(prompts[places[name[0]]], generations[name], args.max_length, args.truncation_mode)

    names: dict[int, list[Name]] = {}
    for name in sorted(generations):
        if name[0] in places:
            names.setdefault(name[1], []).append(name)
    sets = {f"iteration-{iteration}": ResponseSet(of_it, generated) for iteration, of_it in names.items()}
    return {"real": ResponseSet([*places], real)} | sets


def with_start_logps(pairs: Dataset, logps: StartLogps, sets: Mapping[str, ResponseSet], prefix: str = "") -> Dataset:
    """Return pairs with the columns `START_LOGPS`. All processes call it together.

    Args:
        pairs: pairs with `key`, `iteration` and `sample`.
        logps: what is known about the start's log-probabilities, and how to compute the rest.
        sets: responses of the pairs, from [`sets_of_responses`].
        prefix: prefix of the pairs' keys.
    """
    found: dict[Any, float] = {}
    for name, responses in sets.items():
        found |= dict(zip(responses.names, logps.of(name, responses), strict=True))
    keys = [key.removeprefix(prefix) for key in pairs["key"]]
    names = zip(keys, pairs["iteration"], pairs["sample"], strict=True)
    columns = [found[key] for key in keys], [found[name] for name in names]
    for column, values in zip(START_LOGPS, columns, strict=True):
        pairs = pairs.add_column(column, values)
    return pairs
