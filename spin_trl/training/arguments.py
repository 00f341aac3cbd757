"""Convert what a Python caller passes to the types that the rest of the package expects, or refuse it by name and type.

Recipes are checked key by key when they are read. In Python anything can be passed anywhere, and would fail far from where
it was passed, with the error of the first library that can't handle it.
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
"""Datasets to evaluate on: one, or several by name."""


def kind_of(value: Any) -> str:
    """Describe a value's type for a message; for a class or a short text, also give its name or content."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, str | Path):
        return f"{with_article(type(value).__name__)}, {str(value)!r:.60}"
    return with_article(type(value).__name__)


def as_settings(args: Any) -> SPINConfig | None:
    """Return the settings of an iteration. TRL's `DPOConfig` is completed with defaults for the settings it lacks.

    Raises:
        RecipeError: if `args` is of another type.
    """
    if args is None or isinstance(args, SPINConfig):
        return args
    if isinstance(args, DPOConfig):
        return SPINConfig.completed(args)
    hint = " Write `SPINConfig(**args)`." if isinstance(args, Mapping) else ""
    raise RecipeError(f"`args` is {kind_of(args)}; expected an SPINConfig, or TRL's DPOConfig.{hint}")


def check_kinds(**given: Any) -> None:
    """Check the types of arguments of `SelfPlay` and `SPINTrainer`.

    Args:
        given: arguments by name; None if left out.

    Raises:
        RecipeError: if one is of the wrong type; the message gives its type, the expected one, and how to make that.
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
    """Return a model, with a path converted to a string and everything else unchanged.

    Raises:
        RecipeError: if it is not a model.
    """
    if isinstance(model, Path):
        return str(model)
    if isinstance(model, type | Mapping) or not (isinstance(model, str) or hasattr(model, "parameters")):
        raise RecipeError(f"`model` is {kind_of(model)}; expected a Hub name, a folder, or a model.")
    return model


def unnamed(model: Any, processing_class: Any) -> Iterator[str]:
    """Yield a reason if the tokenizer of a model in memory can't be determined.

    Args:
        model: model in memory, or its name.
        processing_class: tokenizer passed with it, or None.
    """
    name: str = getattr(getattr(model, "config", None), "_name_or_path", "")
    if processing_class is None and not isinstance(model, str) and not name:
        yield "`model` was not loaded by name, so its tokenizer is not known. Pass it as `processing_class`."


def as_whole_model(model: Any) -> str | PreTrainedModel | PeftModel | None:
    """Return the start of a run, as [`as_model`] does, if it is of a kind that can be saved; or None.

    Raises:
        RecipeError: if it is not a model of transformers or PEFT.
    """
    found = None if model is None else as_model(model)
    if isinstance(found, str | PreTrainedModel | PeftModel | None):
        return found
    raise RecipeError(
        f"`model` is {kind_of(model)}; expected a Hub name, a folder, a PreTrainedModel or PeftModel, or None to build a "
        "small one."
    )


def human_responses(train_dataset: Any) -> Dataset | IterableDataset | None:
    """Return an SFT dataset of any usual type (see [`as_dataset`]), or None for anything else, which is left to DPOTrainer.

    Only one row is read to tell, so that a transform on pairs, which may load images, is not run.

    Raises:
        DataError: if stored human responses can't be read, because there are no rows, or a format or transform hides them.
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
        raise DataError(f"`train_dataset` can't be used with its format or transform: {not_sft(shown)}")
    return None


def of_pairs(eval_dataset: Any) -> Any:
    """Return datasets of pairs to evaluate on: a `datasets` dataset without its format, others as from [`as_datasets`].

    Raises:
        DataError: if they are of another type.
    """
    several = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    if not all(isinstance(dataset, Dataset | IterableDataset) for dataset in several.values()):
        return as_datasets(eval_dataset)
    found = {name: without_format(dataset) for name, dataset in several.items()}
    return found if several is eval_dataset else found[""]


def without_format(pairs: Any) -> Any:
    """Return a dataset of pairs without a format such as torch's, which DPOTrainer can't read; anything else unchanged."""
    if not isinstance(pairs, Dataset) or pairs.format["type"] == "custom":
        return pairs
    return _unformatted(pairs, "dataset")


def as_dataset(value: Any, name: str, *, streams: bool = False) -> Any:
    """Return a dataset of any usual type as a `Dataset` that is read as it is stored.

    A list of rows, a `pandas.DataFrame` or a `pyarrow.Table` is converted. A format (torch, numpy, pandas, arrow, ...) is
    removed: it changes the type of the values read, not their content. A user's transform (`set_transform`) is applied once.

    Args:
        value: value of the argument.
        name: name of the argument.
        streams: whether an `IterableDataset` is accepted, too.

    Raises:
        DataError: if it is of another type, has no rows, or its rows are inconsistent.
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
    """Return the datasets or streams to evaluate on, one or several by name, as from [`as_dataset`]. None stays None."""
    if not isinstance(eval_dataset, Mapping):
        return None if eval_dataset is None else as_dataset(eval_dataset, "eval_dataset", streams=True)
    wrong = next((key for key in eval_dataset if not isinstance(key, str)), None)
    if wrong is not None:
        raise DataError(f"`eval_dataset` has a dataset named {wrong!r}; expected strings as names.")
    return {key: as_dataset(one, f"eval_dataset[{key!r}]", streams=True) for key, one in eval_dataset.items()}


def _unformatted(dataset: Dataset, name: str) -> Dataset:
    """Return a dataset without its format. Columns hidden by the format stay hidden; a transform's output is kept."""
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
        keep_in_memory=True,  # nothing is written next to the user's dataset
        load_from_cache_file=False,
        desc="Applying the dataset's transform",
    )
    return read.with_format(None)


def _of_rows(rows: Sequence[Any], name: str) -> Dataset:
    """Return a list of rows as a dataset with the keys of all rows: `Dataset.from_list` uses only the first row's."""
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
    except Exception as error:  # from Arrow, for inconsistent values, or from the user's transform
        raise DataError(f"`{name}` can't be read as a dataset: {type(error).__name__}: {error}") from error
    return made


def _advice_on_kind(value: Any) -> str:
    if isinstance(value, IterableDataset):
        return (
            " A stream can't be used for self-play: every prompt is answered before training. Try "
            "`Dataset.from_list(list(it))`."
        )
    if isinstance(value, DatasetDict | IterableDatasetDict):
        return f" Choose one of its splits: {', '.join(map(repr, value))}."
    if isinstance(value, Mapping):
        return " `Dataset.from_dict` converts a dict of columns."
    if isinstance(value, str | Path):
        return " Load it first with `datasets.load_dataset`, or set it as `dataset_name` in a recipe."
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
    "sft_peft_config": (PeftConfig, "a PeftConfig, like peft.LoraConfig", " Write `LoraConfig(r=..., ...)`."),
    "quantization_config": (QuantizationConfigMixin, "a BitsAndBytesConfig", " Write `BitsAndBytesConfig(...)`."),
    "ref_model": (torch.nn.Module, "a model", " Load it first: `AutoModelForCausalLM.from_pretrained(...)`."),
    "settings": (Mapping, "a dict", ""),
    "sources": (Mapping, "a dict", ""),
    "callbacks": (list | tuple, "a list of TrainerCallbacks", ""),
    "optimizers": (list | tuple, "a pair of an optimizer and a scheduler", ""),
    **dict.fromkeys(("data_collator", "compute_metrics", "launch", "scorer"), (Callable, "a function", "")),
}
"""By argument name: its type in code and in words, and a hint on how to make one."""
