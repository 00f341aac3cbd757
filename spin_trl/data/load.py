"""Where a dataset comes from: a file, a folder, the Hub, or a function; with its columns called as the rest knows them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..errors import DataError
from ..functions import place_of, resolve
from .columns import is_preference, is_sft

logger = logging.getLogger(__name__)

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load(
    name: str,
    config: str | None = None,
    split: str = "train",
    column_mapping: dict[str, str] | None = None,
    revision: str | None = None,
) -> Dataset:
    """Load a dataset by name: a local file or folder, a function of an installed package, or a Hub dataset.

    Args:
        name: path of a JSONL, JSON, Parquet or CSV file, or of a `save_to_disk` folder; `package.module:function`, which
            is called with `split` and returns a dataset; or a Hub name.
        config: configuration of a Hub dataset.
        split: split to load, where there are several.
        column_mapping: columns to rename, from the data's name to `prompt`, `completion`, `messages`, ...
        revision: commit of a Hub dataset.

    Raises:
        DataError: the data is missing or malformed; for JSON lines, the message names file and line.
    """
    path = Path(name)
    if path.suffix in READERS:
        dataset = _load_file(path)
    elif path.is_dir():
        try:
            loaded = load_from_disk(str(path))
        except FileNotFoundError as error:
            raise DataError(f"{path} is a folder, but not one that `Dataset.save_to_disk` wrote: {error}") from error
        if isinstance(loaded, DatasetDict) and split not in loaded:
            raise DataError(f"{path} has no split {split!r}; its splits are {list(loaded)}.")
        dataset = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    elif ":" in name:
        dataset = _called(name, split)
        if not isinstance(dataset, Dataset):
            raise DataError(f"{name!r} returned {type(dataset).__name__}; expected a datasets.Dataset.")
    else:
        try:
            dataset = load_dataset(name, config, split=split, revision=revision)
        except Exception as error:  # the Hub has many ways to say no
            raise DataError(
                f"The dataset {name!r} is neither a local file ({', '.join(READERS)}) or folder, nor could it be loaded "
                f"from the Hub: {error}"
            ) from error
    return rename_columns(dataset, column_mapping)


def _called(name: str, split: str) -> Any:
    """What the function that `module:function` names returns for a split."""
    function = resolve(name)
    try:
        return function(split)
    except DataError:
        raise
    except Exception as error:  # the user's own code
        raise DataError(f"{name!r} failed: {type(error).__name__}: {error}{place_of(error)}") from error


def rename_columns(dataset: Dataset, column_mapping: dict[str, str] | None) -> Dataset:
    """Rename columns, in a dataset that needs it.

    A recipe's mapping is for the recipe's own data. Other data, which has none of the columns and names that are known
    already, stays as it is.

    Raises:
        DataError: a column is missing, or its new name is taken.
    """
    if not column_mapping:
        return dataset
    missing = [column for column in column_mapping if column not in dataset.column_names]
    if len(missing) == len(column_mapping) and (is_sft(dataset) or is_preference(dataset)):
        logger.warning("`column_mapping` is passed over: the dataset has known columns, %s.", dataset.column_names)
        return dataset
    if missing:
        raise DataError(
            f"The dataset has no column {missing[0]!r}; its columns are {dataset.column_names}. Correct `column_mapping`, "
            "or leave every name as it is with `column_mapping: {}`."
        )
    taken = [name for name in column_mapping.values() if name in set(dataset.column_names) - set(column_mapping)]
    if taken:
        raise DataError(
            f"A column can't be renamed to {taken[0]!r}: there is one already, among {dataset.column_names}. Map that one "
            "to another name, too."
        )
    return dataset.rename_columns(column_mapping)


def _load_file(path: Path) -> Dataset:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if path.suffix == ".jsonl":
        _check_json_lines(path)
    try:
        dataset = load_dataset(READERS[path.suffix], data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error.__cause__ or error}") from error
    except StopIteration:  # what `datasets` says to a file without content
        raise DataError(f"{path} has no rows.") from None
    if len(dataset) == 0:
        raise DataError(f"{path} has no rows.")
    return dataset


def _check_json_lines(path: Path) -> None:
    """Find the first line that is not a JSON object. Arrow's own reader names neither line nor reason."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not valid JSON ({error}): {line[:60]!r}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object like {{...}}, found {line[:60]!r}")


def as_conversations(dataset: Dataset) -> Dataset:
    """Prompt and completion that are text, as a user's and an assistant's message: what a chat model is asked in.

    Without this, text is text: no chat template is put around it. Data that holds messages stays as it is.
    """
    if len(dataset) == 0 or not {"prompt", "completion"} <= set(dataset.column_names):
        return dataset
    if not isinstance(dataset[0]["prompt"], str):
        return dataset

    def as_messages(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }

    return dataset.map(as_messages, desc="Writing text as conversations")
