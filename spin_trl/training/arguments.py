"""What a Python caller passes, as the kind that the rest takes; or refused by name and kind.

Recipes are checked key by key when they are read. In Python anything can be passed for anything, and would
fail far from where it was written, in the words of whatever library meets it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback
from transformers.utils.quantization_config import QuantizationConfigMixin
from trl import DPOConfig

from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig
from ..config.start import StartConfig
from ..counts import counted, with_article
from ..data.columns import is_preference, is_sft
from ..data.unused import not_sft
from ..errors import DataError, RecipeError

EvalDatasets = Dataset | IterableDataset | DatasetDict | IterableDatasetDict | dict[str, Dataset | IterableDataset]
"""What to evaluate on: one dataset, or several by name."""


def kind_of(value: Any) -> str:
    """A value's kind for a message: what it is, and of a class or a short text, which."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, str | Path):
        return f"{with_article(type(value).__name__)}, {str(value)!r:.60}"
    return with_article(type(value).__name__)


def as_settings(args: Any) -> SPINConfig | None:
    """Settings of an iteration. Those of TRL's `DPOConfig` get the defaults of all that it does not have.

    Raises:
        RecipeError: they are of another kind.
    """
    if args is None or isinstance(args, SPINConfig):
        return args
    if isinstance(args, DPOConfig):
        return SPINConfig.completed(args)
    hint = " Write `SPINConfig(**args)`." if isinstance(args, Mapping) else ""
    raise RecipeError(f"`args` is {kind_of(args)}; expected an SPINConfig, or TRL's DPOConfig.{hint}")


def check_kinds(**given: Any) -> None:
    """Refuse arguments of `SelfPlay` and `SPINTrainer` that are of another kind than theirs.

    Args:
        given: by name. What is None was left out.

    Raises:
        RecipeError: one is of another kind; the message says what it is, what was expected, and how to make that.
    """
    for name, value in given.items():
        kinds, expected, hint = _EXPECTED[name]
        if value is not None and not isinstance(value, kinds):
            raise RecipeError(f"`{name}` is {kind_of(value)}; expected {expected}.{hint}")
    for callback in given.get("callbacks") or ():
        if not issubclass(callback if isinstance(callback, type) else type(callback), TrainerCallback):
            raise RecipeError(f"`callbacks` has {kind_of(callback)}; expected TrainerCallbacks.")
    if given.get("optimizers") is not None and len(given["optimizers"]) != 2:
        raise RecipeError(
            f"`optimizers` has {counted(len(given['optimizers']), 'entry', 'entries')}; expected two: "
            "an optimizer and a scheduler."
        )


def as_model(model: Any) -> Any:
    """A model: a path as text, everything else as it is.

    Raises:
        RecipeError: it is no model.
    """
    if isinstance(model, Path):
        return str(model)
    if isinstance(model, type | Mapping) or not (isinstance(model, str) or hasattr(model, "parameters")):
        raise RecipeError(f"`model` is {kind_of(model)}; expected a Hub name, a folder, or a model.")
    return model


def unnamed(model: Any, processing_class: Any) -> Iterator[str]:
    """A model in memory for which nobody knows the tokenizer.

    Args:
        model: in memory, or its name.
        processing_class: the tokenizer that was passed with it, or None.
    """
    name: str = getattr(getattr(model, "config", None), "_name_or_path", "")
    if processing_class is None and not isinstance(model, str) and not name:
        yield "`model` was not loaded by a name, so its tokenizer is not known. Pass it as `processing_class`."


def as_whole_model(model: Any) -> str | PreTrainedModel | PeftModel | None:
    """The start of a run: as [`as_model`], of a kind that can be saved; or None.

    Raises:
        RecipeError: it is no model of transformers or PEFT.
    """
    found = None if model is None else as_model(model)
    if isinstance(found, str | PreTrainedModel | PeftModel | None):
        return found
    raise RecipeError(
        f"`model` is {kind_of(model)}; expected a Hub name, a folder, a PreTrainedModel or PeftModel, or None to build a "
        "small one."
    )


def human_responses(train_dataset: Any) -> Dataset | IterableDataset | None:
    """An SFT dataset of any usual kind (see [`as_dataset`]), or None: anything else is DPOTrainer's to take or to refuse.

    One row tells, so that a transform of pairs, which may load images, is left alone.

    Raises:
        DataError: human responses are stored, but can't be read: there are no rows, or format or transform hide them.
    """
    is_stored = isinstance(train_dataset, Dataset) and is_sft(train_dataset)
    try:
        sample = train_dataset
        if isinstance(train_dataset, Dataset) and len(train_dataset):
            sample = train_dataset.select(range(1))
        shown = as_dataset(sample, "train_dataset", streams=True)
        if is_sft(shown):
            found: Dataset | IterableDataset = as_dataset(train_dataset, "train_dataset", streams=True)
            return found
    except DataError:
        if is_stored:
            raise
        return None
    if is_stored and not is_preference(shown):
        raise DataError(f"With its format or transform, this is wrong with `train_dataset`: {not_sft(shown)}")
    return None


def of_pairs(eval_dataset: Any) -> Any:
    """Datasets of pairs to evaluate on: those of `datasets` without format, others as [`as_datasets`] makes them.

    Raises:
        DataError: they are of another kind.
    """
    several = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    if not all(isinstance(dataset, Dataset | IterableDataset) for dataset in several.values()):
        return as_datasets(eval_dataset)
    found = {name: without_format(dataset) for name, dataset in several.items()}
    return found if several is eval_dataset else found[""]


def without_format(pairs: Any) -> Any:
    """A dataset of pairs without a format like torch's, which DPOTrainer does not read; anything else as it is."""
    if not isinstance(pairs, Dataset) or pairs.format["type"] == "custom":
        return pairs
    return _unformatted(pairs, "dataset")


def as_dataset(value: Any, name: str, *, streams: bool = False) -> Any:
    """A dataset of any usual kind as a `Dataset` that is read as it is stored.

    A list of rows, a `pandas.DataFrame` and a `pyarrow.Table` become one. A format (torch, numpy, pandas, arrow, ...) is
    left out: it changes the type of what is read, not what it says. A user's transform (`set_transform`) is applied, once.

    Args:
        value: the argument.
        name: of the argument.
        streams: whether an `IterableDataset` is possible, too.

    Raises:
        DataError: it is of another kind, has no rows, or its rows don't fit each other.
    """
    if isinstance(value, Dataset):
        if not len(value):
            raise DataError(f"`{name}` has no rows.")
        return _unformatted(value, name)
    if isinstance(value, IterableDataset) and streams:
        return value
    if isinstance(value, pandas.DataFrame):
        return _made(name, lambda: Dataset.from_pandas(value, preserve_index=False))
    if isinstance(value, pyarrow.Table):
        return _made(name, lambda: Dataset(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _of_rows(value, name)
    raise DataError(
        f"`{name}` is {kind_of(value)}; expected a datasets.Dataset, or a list of rows.{_advice_on_kind(value)}"
    )


def as_datasets(eval_dataset: Any) -> Any:
    """One dataset or stream to evaluate on, or several by name: each as [`as_dataset`] has it. None stays None."""
    if not isinstance(eval_dataset, Mapping):
        return None if eval_dataset is None else as_dataset(eval_dataset, "eval_dataset", streams=True)
    wrong = next((key for key in eval_dataset if not isinstance(key, str)), None)
    if wrong is not None:
        raise DataError(f"`eval_dataset` has a dataset named {wrong!r}; expected names that are text.")
    return {key: as_dataset(one, f"eval_dataset[{key!r}]", streams=True) for key, one in eval_dataset.items()}


def _unformatted(dataset: Dataset, name: str) -> Dataset:
    """A dataset without its format; columns that the format hides stay hidden, and what a transform returns is kept."""
    known = dataset.format
    if known["type"] is None and set(known["columns"]) == set(dataset.column_names):
        return dataset
    if known["type"] == "custom":
        return _made(name, lambda: _transformed(dataset))
    hidden = set() if known["output_all_columns"] else set(dataset.column_names) - set(known["columns"])
    dataset = dataset.with_format(None)
    return dataset.remove_columns(sorted(hidden)) if hidden else dataset


def _transformed(dataset: Dataset) -> Dataset:
    read = dataset.map(
        lambda rows: rows,
        batched=True,
        remove_columns=dataset.column_names,
        keep_in_memory=True,  # nothing is written beside a dataset of the user's
        load_from_cache_file=False,
        desc="Applying the dataset's transform",
    )
    return read.with_format(None)


def _of_rows(rows: Sequence[Any], name: str) -> Dataset:
    """A list of rows, all of whose keys become columns: `Dataset.from_list` takes those of the first row alone."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"Row {number} of `{name}` is {kind_of(row)}; expected a dict, like {{'messages': [...]}}."
            )
    if not rows:
        raise DataError(f"`{name}` has no rows.")
    keys = dict.fromkeys(key for row in rows for key in row)
    return _made(name, lambda: Dataset.from_dict({key: [row.get(key) for row in rows] for key in keys}))


def _made(name: str, make: Any) -> Dataset:
    try:
        made: Dataset = make()
    except Exception as error:  # Arrow's, of values that don't fit each other, or the user's transform's
        raise DataError(f"`{name}` can't be read as a dataset: {type(error).__name__}: {error}") from error
    return made


def _advice_on_kind(value: Any) -> str:
    if isinstance(value, IterableDataset):
        return (
            " A stream can't be self-played: every prompt is answered before training. `Dataset.from_list(list(it))`?"
        )
    if isinstance(value, DatasetDict | IterableDatasetDict):
        return f" Choose one of its splits: {', '.join(map(repr, value))}."
    if isinstance(value, Mapping):
        return " A dict of columns becomes one with `Dataset.from_dict`."
    if isinstance(value, str | Path):
        return " Load it first, with `datasets.load_dataset`, or name it as `dataset_name` in a recipe."
    if isinstance(value, Iterable):
        return " Put its rows into a list: `list(rows)`."
    return ""


_TOKENIZER_HINT = " `AutoTokenizer.from_pretrained(...)` loads one."

_EXPECTED: Mapping[str, tuple[Any, str, str]] = {
    "play": (SelfPlayConfig, "a SelfPlayConfig", " Write `SelfPlayConfig(num_iterations=..., ...)`."),
    "start": (StartConfig, "a StartConfig", ""),
    "tokenizer": (PreTrainedTokenizerBase, "a tokenizer of transformers", _TOKENIZER_HINT),
    "processing_class": (
        PreTrainedTokenizerBase | ProcessorMixin,
        "a tokenizer or processor of transformers",
        _TOKENIZER_HINT,
    ),
    "peft_config": (PeftConfig, "a PeftConfig, like peft.LoraConfig", " Write `LoraConfig(r=..., ...)`."),
    "quantization_config": (QuantizationConfigMixin, "a BitsAndBytesConfig", " Write `BitsAndBytesConfig(...)`."),
    "ref_model": (torch.nn.Module, "a model", " Load it first: `AutoModelForCausalLM.from_pretrained(...)`."),
    "settings": (Mapping, "a dict", ""),
    "sources": (Mapping, "a dict", ""),
    "callbacks": (list | tuple, "a list of TrainerCallbacks", ""),
    "optimizers": (list | tuple, "a pair of an optimizer and a scheduler", ""),
    **dict.fromkeys(("data_collator", "compute_metrics", "launch", "scorer"), (Callable, "a function", "")),
}
"""By an argument's name: what it is, in code and in words, and how to make one."""
