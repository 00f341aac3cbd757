"""Inspects what a fitting recipe depends on: the columns and lengths of the data, the model's files, and this machine.

Only a sample of the data is tokenised, and only the model's configuration and tokenizer are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...config.data import DataConfig
from ...config.fetched import model_path
from ...counts import counted
from ...data.bad_rows import MOST, SKIP, BadRow, BadRows, refusal_of_rows
from ...data.columns import UNREADABLE, is_text, read_columns
from ...data.mapping import ColumnGuess, guess_columns
from ...data.prepare import encode_rows
from ...data.template.pair_template import PairTemplate
from ...data.template.templated import KNOWN
from ...data.unused import naming, not_sft
from ...errors import DataError
from ...evaluation.scorers.boxed import boxed_answer
from ...evaluation.scorers.gsm8k import has_format
from ...models.adapters import base_of, is_adapter
from ...models.eos import load_eos_ids
from ...models.loading import model_config_of
from ...models.policy import load_tokenizer
from ...plan.devices import Device, own_gpu, this_cpu
from ...quiet import quiet

TOKENISED = 500
"""Maximum number of rows that are tokenised."""

CHARACTERS_A_TOKEN = 3
"""Assumed characters per token if there is no tokenizer: rather few, so that lengths are not underestimated."""


@dataclass(frozen=True)
class SeenModel:
    """A model as described by its files.

    Attributes:
        name: Hub name or folder.
        config: configuration of the model, or of an adapter's base; None if it can't be read.
        tokenizer: the model's tokenizer.
        is_adapter: whether the model is already an adapter.
    """

    name: str
    config: PreTrainedConfig | None
    tokenizer: PreTrainedTokenizerBase
    is_adapter: bool

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    @property
    def positions(self) -> int | None:
        """Number of positions of the model, or None if unknown."""
        text = None if self.config is None else self.config.get_text_config()
        found: Any = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
        return int(found) if isinstance(found, int) and found > 0 else None


@dataclass(frozen=True)
class SeenData:
    """A dataset's contents, and how to read it.

    Attributes:
        settings: settings that read it.
        total: number of rows.
        columns: columns of the data, under their original names.
        guess: how its columns are read.
        read: columns that are read, under their mapped names.
        is_text: whether prompts and responses are plain text, without a chat template.
        lengths: tokens of prompts with their real responses, and of real responses alone, both sorted.
        is_counted: whether a tokenizer counted the tokens; otherwise they are estimated from the number of characters.
        bad: rows of the sample that can't be used.
        sampled: number of rows in the sample.
        unused: a sentence on columns that are not used, or None.
        scorer: scorer that fits the answers, or None.
    """

    settings: DataConfig
    total: int
    columns: list[str]
    guess: ColumnGuess
    read: list[str]
    is_text: bool
    lengths: tuple[list[int], list[int]]
    is_counted: bool
    bad: list[BadRow]
    sampled: int
    unused: str | None
    scorer: str | None


@dataclass(frozen=True)
class Machine:
    """The machine a run would use.

    Attributes:
        device: a GPU, or the CPU.
        is_mps: whether Apple's GPU is used, which shares the CPU's memory.
    """

    device: Device
    is_mps: bool = False


@dataclass
class _Files:
    """How tokenizers and configurations are read: without running code from the model's repository."""

    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)


def this_machine() -> Machine:
    """Return the device that training uses by default."""
    gpu = own_gpu()
    return Machine(gpu) if gpu is not None else Machine(this_cpu(), torch.backends.mps.is_available())


def look_at_model(name: str) -> SeenModel:
    """Read a model's configuration and tokenizer.

    Raises:
        DataError: if the tokenizer can't be loaded.
        RecipeError: if the model has to be fetched first.
    """
    path = model_path(name)
    tokenizer = load_tokenizer(path, _Files())
    adapts = is_adapter(path)
    config = model_config_of(base_of(path) if adapts else path, _Files())
    return SeenModel(name, config, tokenizer, adapts)


def look_at_data(name: str, config: str | None, split: str, model: SeenModel | None) -> SeenData:
    """Find out how to read a dataset, and how long its rows are.

    Args:
        name: file, folder, Hub name or function.
        config: configuration of a dataset on the Hub.
        split: split to train on.
        model: model whose tokenizer counts the tokens and whose chat template is applied to text; None: not known yet.

    Raises:
        DataError: if the data can't be read, or its columns can't be recognised.
    """
    # Long, since how to read the columns is worked out step by step.
    options: dict[str, Any] = {"dataset_name": name, "dataset_config": config, "dataset_train_split": split}
    stored = DataConfig(**options).train_as_stored(bad_as_rows=True)
    guess = guess_columns(stored)
    if guess is None:
        own = stored.remove_columns([column for column in (UNREADABLE,) if column in stored.column_names])
        raise DataError(not_sft(own) + _of_nested(own))
    columns = [column for column in stored.column_names if column != UNREADABLE]
    if {"instruction", "output"} <= set(columns) and not guess.mapping and model and not model.has_chat_template:
        guess = ColumnGuess({"instruction": "prompt", "output": "completion"})
    settings = DataConfig(**options, column_mapping=guess.mapping or None)
    mapped = settings.train_as_stored(bad_as_rows=True) if guess.mapping else stored
    total = len(mapped)
    numbers = range(0, total, -(-total // TOKENISED))
    sample = mapped.select(numbers)
    if is_text(sample) and (model is None or model.has_chat_template) and not _is_templated(sample):
        settings.as_conversations = True
        sample = settings.as_set(sample)
    text = is_text(sample)
    with quiet("spin_trl"):
        unused = naming(sample, "train")
        if model is None:
            bad = [
                (number, row[UNREADABLE]) for number, row in zip(numbers, sample, strict=True) if row.get(UNREADABLE)
            ]
            lengths, answers = _lengths_by_characters(sample)
        else:
            bad, lengths, answers = _counted_lengths(sample, model, numbers)
    if len(bad) > MOST * len(sample):
        raise DataError(refusal_of_rows(bad, len(sample), "train", BadRows(SKIP)))
    return SeenData(
        settings=settings,
        total=total,
        columns=columns,
        guess=guess,
        read=[column for column in read_columns(sample) if column != UNREADABLE],
        is_text=text,
        lengths=lengths,
        is_counted=model is not None,
        bad=bad,
        sampled=len(sample),
        unused=unused,
        scorer=_scorer_of(answers),
    )


def _of_nested(dataset: Dataset) -> str:
    row = dict(dataset[0]) if len(dataset) else {}
    nested = [name for name, value in row.items() if isinstance(value, dict)]
    if not nested:
        return ""
    return (
        f" Nested objects are not searched ({', '.join(nested)}): move their fields to top-level columns, such as `prompt` "
        "and `completion`."
    )


def _is_templated(sample: Dataset) -> bool:
    """Return whether most prompts already contain the output of a chat template."""
    prompts = [row["prompt"] or "" for row in sample.select_columns("prompt")]
    found = sum(any(known in prompt for known in KNOWN) for prompt in prompts)
    return 2 * found > len(prompts)


def _counted_lengths(
    sample: Dataset, model: SeenModel, numbers: Sequence[int]
) -> tuple[list[BadRow], tuple[list[int], list[int]], list[str]]:
    """Return the rows that can't be used, the lengths of the others in tokens, and their answers."""
    template = PairTemplate(model.tokenizer, load_eos_ids(model.name, _Files(), model.tokenizer))
    encoded = encode_rows(sample, template, numbers=numbers)
    responses = list(encoded.responses())
    bad = [(one.row, one.problem) for one in responses if one.is_bad]
    kept = [one for one in responses if one.is_kept]
    whole = sorted(len(one.prompt_ids) + len(one.real_ids) for one in kept)
    answers = [answer for answer in encoded.rows["real"] if answer]
    return bad, (whole, sorted(len(one.real_ids) for one in kept)), answers


def _lengths_by_characters(sample: Dataset) -> tuple[tuple[list[int], list[int]], list[str]]:
    """Return lengths in tokens, estimated from the number of characters, and the answers."""
    whole, real, answers = [], [], []
    for row in sample:
        texts = [*_texts_in_order(row)]
        if texts:
            whole.append(sum(map(len, texts)) // CHARACTERS_A_TOKEN)
            real.append(len(texts[-1]) // CHARACTERS_A_TOKEN)
            answers.append(texts[-1])
    return (sorted(whole), sorted(real)), answers


def _texts_in_order(value: Any) -> Sequence[str]:
    """Return the texts of a row's prompt and response, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        names = ("instruction", "input", "prompt", "prompt_input", "messages", "conversations", "content", "value")
        parts = [value[name] for name in (*names, "output", "completion", "text") if value.get(name)]
        return [text for part in parts for text in _texts_in_order(part)]
    return [text for part in value for text in _texts_in_order(part)] if isinstance(value, list) else []


def _scorer_of(answers: Sequence[str]) -> str | None:
    """Return the scorer for answers of a known form if most of them have it, else None."""
    forms = {"gsm8k": has_format, "boxed": lambda answer: boxed_answer(answer) is not None}
    return next((name for name, fits in forms.items() if 2 * sum(map(fits, answers)) > len(answers)), None)


def at_quantile(lengths: Sequence[int], share: float) -> int:
    """Return the length that this fraction of the sorted lengths do not exceed; 0 if there are none."""
    return lengths[min(int(share * len(lengths)), len(lengths) - 1)] if lengths else 0


def lengths_in_words(data: SeenData) -> str:
    """Describe how long the rows are."""
    whole = data.lengths[0]
    how = "tokens" if data.is_counted else f"tokens, estimated as {CHARACTERS_A_TOKEN} characters per token"
    middle, many, longest = (at_quantile(whole, share) for share in (0.5, 0.95, 1))
    lengths = f"{middle:,} (median), {many:,} (95 %), {longest:,} (longest)"
    return f"prompt and response in {counted(data.sampled, 'row')}: {lengths} {how}"
