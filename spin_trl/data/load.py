"""Load a dataset from a file, a folder, the Hub, or a function, and rename its columns to the names used in this package.

On request, text is turned into conversations, the format in which chat models are prompted.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Json, load_dataset

from ..errors import DataError, message_of
from ..files import home_expanded
from .arrow import check_content, is_without_rows, load_saved
from .columns import is_preference, is_sft, is_string, with_input
from .functions import place_of, resolve_function
from .reading.csv_text import read_csv
from .reading.exact_json import ExactJson, read_exactly
from .reading.folder import Folder, choose_split, fetched_files, look_into, part_of, plain_path
from .reading.json_rows import read_json_rows
from .reading.kept import apart
from .reading.lines import opened
from .reading.local import COMPRESSIONS, DESCRIPTION, FORMATS, extension, is_local

logger = logging.getLogger(__name__)

_ROLES = {"prompt": "user", "completion": "assistant"}

Read = Callable[..., Dataset]
"""Function that reads one split from files of one format: [`_read`] with the arguments that are the same for all files."""


def load_rows(
    name: str,
    config: str | None = None,
    split: str = "train",
    column_mapping: dict[str, str] | None = None,
    revision: str | None = None,
    *,
    bad_as_rows: bool = False,
) -> Dataset:
    """Load a dataset by name: a local file or folder, a function of an installed package, or a Hub dataset.

    Args:
        name: path of a JSONL, JSON, Parquet, CSV or TSV file, of a folder with such files, or of a `save_to_disk` folder
            (`~` is the home folder); `package.module:function`, which is called with `split` and, if given, `config`, and
            returns a dataset; or the name of a Hub dataset.
        config: configuration of a Hub dataset, or of a folder whose README.md defines several; or what a function needs.
        split: split to load, if there are several. A file is a single split.
        column_mapping: columns to rename, from the data's names to `prompt`, `completion`, `messages`, ...
        revision: commit of a Hub dataset.
        bad_as_rows: whether to represent unreadable lines of JSON and CSV files as rows, which are left out or refused with
            the other bad rows when the data is prepared; otherwise they are refused here.

    Raises:
        DataError: if the data is missing or malformed; for JSON and CSV, the message names file and lines.
    """
    # Long, because it tries everything that a name may mean, in order.
    path = home_expanded(name)
    read = partial(_read, column_mapping or {}, bad_as_rows)
    if os.path.isdir(path):
        dataset = _load_folder(path, config, split, read)
    elif os.path.isfile(path):
        dataset = _load_file(path, split, read)
    elif "://" in name:
        raise DataError(f"{name} is a URL, which is not downloaded. Name a Hub dataset, or a local file or folder.")
    elif is_local(name):
        what = "file" if extension(name) in FORMATS else "file or folder"
        hint = " Patterns are not supported: name the folder." if glob.has_magic(name) else ""
        raise DataError(f"There is no {what} {path if name.startswith('~') else name}.{hint}")
    elif ":" in name:
        dataset = _from_function(name, split, config)
        if not isinstance(dataset, Dataset):
            raise DataError(f"{name!r} returned {type(dataset).__name__}; expected a datasets.Dataset.")
    else:
        try:
            folder = fetched_files(name, config, revision)
            if folder is not None:
                dataset = _load_splits(folder, split, name, read)
            else:
                dataset = load_dataset(name, config, split=split, revision=revision)
        except DataError:
            raise
        except Exception as error:  # the Hub can fail in many ways
            raise DataError(
                f"{name!r} is neither a local file ({DESCRIPTION}) or folder, nor could it be loaded from the Hub: {error}"
            ) from error
    if dataset.format["type"] not in (None, "custom"):  # a `save_to_disk` folder keeps the format, even for tensors
        dataset = dataset.with_format(None)
    return rename_columns(apart(read_exactly(dataset)), column_mapping)


def _from_function(name: str, split: str, config: str | None) -> Any:
    """Call the function that `module:function` names for a split, and a configuration if any, and return its result."""
    function = resolve_function(name)
    try:
        return function(split) if config is None else function(split, config)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        said = f"{type(error).__name__}: {message_of(error)}{place_of(error)}"
        given = f"the split {split!r}" + ("" if config is None else f" and the configuration {config!r}")
        raise DataError(f"{name!r}, called with {given}, failed: {said}") from error


def rename_columns(dataset: Dataset, column_mapping: dict[str, str] | None) -> Dataset:
    """Rename columns of a dataset that has them.

    A recipe's mapping is meant for the recipe's own data. Other data, which has none of these columns but known names, is
    returned unchanged.

    Raises:
        DataError: if a column is missing, or its new name is taken.
    """
    if not column_mapping:
        return dataset
    missing = [column for column in column_mapping if column not in dataset.column_names]
    if len(missing) == len(column_mapping) and (is_sft(dataset) or is_preference(dataset)):
        logger.warning("`column_mapping` is ignored: the dataset already has known columns, %s.", dataset.column_names)
        return dataset
    if missing:
        raise DataError(
            f"The dataset has no column {missing[0]!r}; its columns are {dataset.column_names}. Correct `column_mapping`, "
            "or keep all names with `column_mapping: {}`."
        )
    others = set(dataset.column_names) - set(column_mapping)
    for column, name in column_mapping.items():
        if name in others:
            known = f"there already is a column of that name in {dataset.column_names}"
            raise DataError(f"Column {column!r} can't be renamed to {name!r}: {known}. Rename that column, too.")
    return dataset.rename_columns(with_input(column_mapping, dataset.column_names))


def as_conversations(dataset: Dataset) -> Dataset:
    """Turn prompts and completions that are text into a user and an assistant message.

    Without this, text remains text, and no chat template is applied. Messages are kept, row by row, and so are values that
    are neither text nor messages; these are refused with the row's number when the row is prepared. Other columns are kept,
    too: `system`, `history` and `prompt_input` become part of the conversation when the row is read.
    """
    if len(dataset) == 0 or not set(_ROLES) <= set(dataset.column_names):
        return dataset
    # A column is either Arrow text, or JSON if it mixes text and messages.
    mixed = [name for name in _ROLES if isinstance(dataset.features[name], Json)]
    text = [name for name in _ROLES if is_string(dataset.features[name])]
    if not text and not any(isinstance(value, str) for name in mixed for value in dataset[name]):
        return dataset

    def as_messages(row: dict[str, Any]) -> dict[str, Any]:
        messages = {
            name: [{"role": _ROLES[name], "content": row[name]}] if isinstance(row[name], str) else row[name]
            for name in (*text, *mixed)
        }
        # Encode the JSON here, which `datasets` does not change; its own encoder only writes ten digits of a number.
        return messages | {name: ExactJson().encode_example(messages[name]) for name in mixed}

    of_text = Dataset.from_dict({name: [[{"role": "user", "content": ""}]] for name in text}).features
    features = Features({**dataset.features, **of_text})
    return apart(dataset).map(
        as_messages,
        features=features,
        load_from_cache_file=False,  # a damaged cache would be used
        desc="Turning text into conversations",
    )


def _load_file(path: Path, split: str, read: Read) -> Dataset:
    """Load a file, which is a single split: `split` is ignored unless it is a JSON file with several lists."""
    form = FORMATS.get(extension(path))
    if form is None:
        raise DataError(f"{path} has an unknown extension. Supported formats are {DESCRIPTION}.")
    return part_of(read(form, [path], split.partition("[")[0], None), split, path)


def _load_folder(path: Path, config: str | None, split: str, read: Read) -> Dataset:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        loaded = load_saved(path)
        if isinstance(loaded, DatasetDict):
            chosen = choose_split({name: partial(loaded.__getitem__, name) for name in loaded}, split, path)
        else:
            chosen = part_of(loaded, split, path)
        check_content(chosen, path)
        return chosen
    folder = look_into(path, config)
    if folder.format not in FORMATS.values():
        raise DataError(
            f"{path} holds data files in an unsupported format ({folder.format}). Supported formats are {DESCRIPTION}."
        )
    return _load_splits(folder, split, path, read)


def _load_splits(folder: Folder, split: str, path: str | Path, read: Read) -> Dataset:
    options = folder.options
    separator = options.get("sep") or options.get("delimiter")
    readers = {
        name: partial(read, folder.format, files, options.get("field") or name, separator)
        for name, files in folder.splits.items()
    }
    return choose_split(readers, split, path)


def _read(
    mapping: Mapping[str, str], bad_as_rows: bool, form: str, files: Sequence[Path], split: str, separator: str | None
) -> Dataset:
    """Read the rows of files of one format, one file after another."""
    if form == "json":
        return read_json_rows(files, split, mapping, bad_as_rows=bad_as_rows)
    if form == "csv":
        return read_csv(files, separator, mapping, bad_as_rows=bad_as_rows)
    for file in files:
        with opened(file):  # checks that it exists, and is not just a pointer
            pass
        if file.suffix.lower() in COMPRESSIONS:
            raise DataError(
                f"{file} is a compressed {form.capitalize()} file. Decompress it. Supported formats are {DESCRIPTION}."
            )
    with_rows = [file for file in files if not is_without_rows(file, form)]
    if not with_rows:
        raise DataError(f"{files[0]} has no rows.")
    try:
        dataset = load_dataset(
            form, data_files=[glob.escape(str(plain_path(file))) for file in with_rows], split="train"
        )
    except StopIteration:  # raised by `datasets` for an empty file
        dataset = None
    except Exception as error:  # Arrow's errors, and those of `datasets` on unexpected metadata
        raise DataError(f"{files[0]} can't be read: {error.__cause__ or error!r}") from error
    if not dataset:
        raise DataError(f"{files[0]} has no rows.")
    check_content(dataset, files[0] if len(files) == 1 else files[0].parent)
    return dataset
