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
from ..files import parse_json
from ..generation.store import Generations

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
                **_decoded(row, ids, tokenizer, form),
                "key": name[0],
                "sample": name[2],
                "finish_reason": generations.finish_reasons.get(name, ""),
                "generated_tokens": len(ids),
            }


def _decoded(row: Mapping[str, Any], ids: list[int], tokenizer: Decodes, form: str) -> dict[str, Any]:
    if form == RENDERED:
        all_ids = (row["prompt_ids"], row["real_ids"], ids)
        prompt, real, generated = (str(tokenizer.decode(part, skip_special_tokens=False)) for part in all_ids)
        # Tokenising the prompt as text adds the BOS token again.
        return {"prompt": prompt.removeprefix(tokenizer.bos_token or ""), "chosen": real, "rejected": generated}
    generated = str(tokenizer.decode(ids, skip_special_tokens=True))
    if form == PLAIN:
        return {"prompt": row["prompt"], "chosen": row["real"], "rejected": generated}
    kept = row[CONVERSATION]
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}] if kept == USER else parse_json(kept),
        "chosen": [{"role": "assistant", "content": row["real"]}],
        "rejected": [{"role": "assistant", "content": generated}],
    }


def features(form: str) -> Features:
    """Return the columns of the dataset."""
    message = {"role": Value("string"), "content": Value("string")}
    of_text = List(message) if form == MESSAGES_LAYOUT else Value("string")
    return Features(
        {
            **dict.fromkeys(("prompt", "chosen", "rejected"), of_text),
            "key": Value("string"),
            "sample": Value("int32"),
            "finish_reason": Value("string"),
            "generated_tokens": Value("int32"),
        }
    )


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
    folder.mkdir(parents=True, exist_ok=True)
    form = form_of(rows)
    pairs = pairs_of(rows, generations, tokenizer, form)
    files: list[Path] = []
    while batch := list(itertools.islice(pairs, ROWS_PER_FILE)):
        files.append(folder / f"train-{len(files):05d}.parquet")
        Dataset.from_list(batch, features=features(form)).to_parquet(files[-1])
    return files
