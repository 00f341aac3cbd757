"""An iteration's pairs as a dataset that TRL's DPOTrainer accepts directly: `prompt`, `chosen`, `rejected`.

If every prompt is a plain conversation, the columns hold messages; if every prompt is text, they hold text. Anything else
(tools, tool calls, template options, data prepared by an earlier version) is written as the text that the chat template
rendered, special tokens included.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, Features, List, Value

from ..data.turns import CONVERSATION, TEMPLATED, TEXT_PROMPT, USER
from ..files import Checksum, parse_json, write_atomically
from ..generation.generations import Generations

MESSAGES_LAYOUT, PLAIN, RENDERED = "messages", "text", "rendered"
"""Forms of a pair: lists of messages, plain text, and text rendered by the chat template."""

ROWS_PER_FILE = 50_000


class Decodes(Protocol):
    """The part of a tokenizer's interface that is needed here."""

    bos_token: str | None

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> str | list[str]:
        """Decode token ids to text. Like transformers' tokenizers, return one text per list if given several lists."""


@dataclass(frozen=True)
class PairsInfo:
    """The facts about an iteration's pairs that the card states.

    Attributes:
        iteration: iteration number, from 0.
        form: `messages`, `text` or `rendered`.
        rows: number of pairs.
        finish_reasons: number of generated responses per finish reason.
        identical: number of pairs whose two responses are identical, token by token.
        label: the generating stage's name in words.
        where: repository and revision of its model, or None if it is not on the Hub.
        digest: hash of its weights, or None.
        sampling: sampling settings it generated with.
    """

    iteration: int
    form: str
    rows: int
    finish_reasons: Mapping[str, int]
    identical: int
    label: str = ""
    where: str | None = None
    digest: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


def form_of(rows: Dataset) -> str:
    """Return the form of the pairs of prepared rows."""
    kinds = Counter(rows[CONVERSATION]) if CONVERSATION in rows.column_names else Counter([TEMPLATED])
    if TEMPLATED in kinds:
        return RENDERED
    if set(kinds) == {TEXT_PROMPT}:
        return PLAIN
    return RENDERED if TEXT_PROMPT in kinds else MESSAGES_LAYOUT


def pairs_of(rows: Dataset, generations: Generations, tokenizer: Decodes, form: str) -> Iterator[dict[str, Any]]:
    """Yield an iteration's pairs, in the order of the rows.

    Args:
        rows: prepared rows.
        generations: generations of one iteration.
        tokenizer: tokenizer of the run.
        form: form of the pairs, from [`form_of`].
    """
    names = {key: list(of) for key, of in itertools.groupby(sorted(generations), key=lambda name: name[0])}
    for row in rows:
        for name in names.get(row["key"], []):
            ids = generations[name]
            yield {
                **columns_of_pair(row, ids, tokenizer, form),
                "key": name[0],
                "sample": name[2],
                "finish_reason": generations.finish_reasons.get(name, ""),
                "generated_tokens": len(ids),
            }


def columns_of_pair(
    row: Mapping[str, Any], rejected: list[int], tokenizer: Decodes, form: str, chosen: list[int] | None = None
) -> dict[str, Any]:
    """Return a pair in the columns `prompt`, `chosen` and `rejected`.

    Args:
        row: prepared row.
        rejected: token ids of the rejected response.
        tokenizer: tokenizer of the run.
        form: form of the pair, from [`form_of`].
        chosen: token ids of the chosen response; None: the row's real response.
    """

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=form != RENDERED))

    if form == RENDERED:
        # Tokenising the prompt as text adds the BOS token again.
        prompt = text(row["prompt_ids"]).removeprefix(tokenizer.bos_token or "")
        return {
            "prompt": prompt,
            "chosen": text(row["real_ids"] if chosen is None else chosen),
            "rejected": text(rejected),
        }
    preferred = row["real"] if chosen is None else text(chosen)
    if form == PLAIN:
        return {"prompt": row["prompt"], "chosen": preferred, "rejected": text(rejected)}
    kept = row[CONVERSATION]
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}] if kept == USER else parse_json(kept),
        "chosen": [{"role": "assistant", "content": preferred}],
        "rejected": [{"role": "assistant", "content": text(rejected)}],
    }


OF_GENERATION = {
    "key": Value("string"),
    "sample": Value("int32"),
    "finish_reason": Value("string"),
    "generated_tokens": Value("int32"),
}
"""Further columns of an iteration's pairs."""


def features_of_pairs(form: str, others: Mapping[str, Value]) -> Features:
    """Return the columns of a dataset of pairs.

    Args:
        form: form of the pairs, from [`form_of`].
        others: further columns.
    """
    message = {"role": Value("string"), "content": Value("string")}
    of_text = List(message) if form == MESSAGES_LAYOUT else Value("string")
    return Features({**dict.fromkeys(("prompt", "chosen", "rejected"), of_text), **others})


def info_of(iteration: int, rows: Dataset, generations: Generations) -> PairsInfo:
    """Gather the facts about an iteration's pairs; needs no tokenizer.

    Args:
        iteration: iteration number, from 0.
        rows: prepared rows.
        generations: generations of the iteration.
    """
    real = dict(zip(rows["key"], rows["real_ids"], strict=True))
    names = [name for name in generations if name[0] in real]
    reasons = Counter(generations.finish_reasons.get(name, "") for name in names)
    identical = sum(generations[name] == real[name[0]] for name in names)
    return PairsInfo(iteration, form_of(rows), len(names), dict(reasons), identical)


def write_pairs(folder: Path, rows: Dataset, generations: Generations, tokenizer: Decodes) -> list[Path]:
    """Write an iteration's pairs as Parquet files, in batches, so that memory use does not grow with their number.

    Args:
        folder: directory to write to; created if it does not exist.
        rows, generations, tokenizer: as for [`pairs_of`].

    Returns:
        The paths of the files.
    """
    form = form_of(rows)
    pairs = pairs_of(rows, generations, tokenizer, form)
    return list(write_in_files(folder, pairs, features_of_pairs(form, OF_GENERATION)))


def write_in_files(folder: Path, pairs: Iterator[dict[str, Any]], columns: Features) -> dict[Path, Checksum]:
    """Write pairs as Parquet files of the split `train`, in batches, so that memory use does not grow with their number.

    Args:
        folder: directory to write to; created if it does not exist.
        pairs: rows.
        columns: their columns, from [`features_of_pairs`].

    Returns:
        The checksums of the files, by path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, Checksum] = {}
    while batch := list(itertools.islice(pairs, ROWS_PER_FILE)):
        path = folder / f"train-{len(files):05d}.parquet"
        files[path] = write_atomically(path, Dataset.from_list(batch, features=columns).to_parquet)
    return files
