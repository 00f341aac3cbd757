"""Find files, splits and configurations in folders and in datasets on the Hub, as `datasets` does.

CSV files on the Hub are downloaded and read like those in a folder, not by `datasets`, whose reader turns 007 into a number
and NA into a missing value.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetBuilder, ReadInstruction, concatenate_datasets, load_dataset_builder
from datasets.data_files import FILES_TO_IGNORE, EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.file_download import repo_folder_name
from yaml import YAMLError

from ...errors import DataError
from ...files import JOURNAL, RUN_MARKER, says_prepared, short_digest
from ...quiet import quiet
from .kept import link_folder, link_to
from .local import DESCRIPTION, FORMATS, extension

logger = logging.getLogger(__name__)

_OF_THE_SYSTEM = ("/", "/proc", "/sys", "/dev")
"""Folders of Linux that hold no regular files. Data may be in `/dev/shm`, however, which is a disk in memory."""

_SPLIT = re.compile(r"^(\w+(?:[.-]\w+)*)(\[.*\])?$")


@dataclass(frozen=True)
class Folder:
    """The data files of a folder.

    Attributes:
        format: format of the files: `json`, `csv`, `parquet`, `arrow`, ...
        splits: files by split.
        options: options for reading the files, from the folder's README.md.
    """

    format: str
    splits: dict[str, list[Path]]
    options: dict[str, Any] = field(default_factory=dict)


def look_into(path: Path, config: str | None = None) -> Folder:
    """Find the data files of a folder, except for those in run directories below it.

    Args:
        path: path of the folder.
        config: configuration to use, if README.md defines several.

    Raises:
        DataError: if there are none, or there are several configurations and `config` names none of them.
    """
    real = os.path.realpath(path)
    if real in _OF_THE_SYSTEM or real.startswith(tuple(f"{folder}/" for folder in _OF_THE_SYSTEM if folder != "/dev")):
        raise DataError(
            f"{path} is a folder of the operating system and holds no data. Name the folder with the data."
        )
    path = _snapshot_of_hub(path)
    try:
        with quiet("huggingface_hub.repocard"):  # warns about an ordinary README.md
            builder = load_dataset_builder(str(_mirrored(path)), config)
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise DataError(
            f"{path} holds neither data files ({DESCRIPTION}) nor a dataset saved by `Dataset.save_to_disk`."
        ) from error
    except ValueError as error:
        reason = str(error).partition("\nExample of usage")[0].replace("\n", " ")
        advice = " Set `dataset_config`." if "onfig" in reason else ""
        raise DataError(f"The folder {path} can't be read: {reason}{advice}") from error
    except (YAMLError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # `datasets` does not validate the metadata on files and features in README.md.
        raise DataError(
            f"The folder {path} can't be read: the metadata in its README.md is not valid for `datasets` ({error!r}). "
            "Correct the block between its `---` lines, or remove it."
        ) from error
    found = described_by(builder, Path)
    unread = _unread(path, [file for split in found.splits.values() for file in split])
    if unread:
        named = unread[0] if len(unread) == 1 else f"{unread[0]} and {len(unread) - 1} more"
        advice = "Only files of one format are read from a folder, and only those with a split in their names, if any."
        logger.warning("%s holds data files that are not read: %s. %s", path, named, advice)
    return found


def described_by(builder: DatasetBuilder, place: Callable[[str], Path]) -> Folder:
    """Return the files that a builder of `datasets` would read.

    Args:
        builder: builder for data files.
        place: function that maps the builder's name of a file to its local path.
    """
    files = {str(split): [place(file) for file in found] for split, found in (builder.config.data_files or {}).items()}
    options = {
        name: value
        for name, value in vars(builder.config).items()
        if name not in ("name", "version", "data_dir", "data_files", "description")
        and value != getattr(type(builder.config), name, value)
    }
    return Folder(format_of(builder), files, options)


def format_of(builder: DatasetBuilder) -> str:
    """Return the format of a builder's files: `json`, `csv`, `parquet`, ..."""
    return type(builder).__module__.rpartition(".")[-1]


def fetched_files(name: str, config: str | None, revision: str | None) -> Folder | None:
    """Download the files of a CSV dataset on the Hub; return None if the dataset has another format.

    If the Hub can't be reached, files that were downloaded earlier are used.

    Args:
        name: name of the dataset.
        config: configuration to use.
        revision: branch or commit.

    Raises:
        Exception: any error of `datasets` and `huggingface_hub`.
    """
    try:
        builder = load_dataset_builder(name, config, revision=revision)
    except Exception:
        if earlier := _fetched_earlier(name, config, revision):
            return earlier
        raise
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    if format_of(builder) != "csv" or not all(file.startswith("hf://datasets/") for file in files):
        return None
    wanted = ["README.md", *(_path_in_repository(file, name) for file in files)]
    snapshot = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    return described_by(builder, lambda file: snapshot / _path_in_repository(file, name))


def _fetched_earlier(name: str, config: str | None, revision: str | None) -> Folder | None:
    """Return the files in the Hub's cache. The dataset may be incomplete there: only its CSV files were downloaded."""
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    branch = cache / "refs" / (revision or "main")
    commit = branch.read_text(encoding="utf-8").strip() if branch.is_file() else revision
    if commit is None or not (cache / "snapshots" / commit).is_dir():
        return None
    with contextlib.suppress(DataError):
        folder = look_into(cache / "snapshots" / commit, config)
        return folder if folder.format == "csv" else None
    return None


def _path_in_repository(file: str, name: str) -> str:
    """Return a file's path in its repository, given `hf://datasets/NAME@COMMIT/PATH`."""
    return file.removeprefix("hf://datasets/").removeprefix(name).partition("/")[2]


def _unread(path: Path, read: Sequence[Path]) -> list[Path]:
    """Return data files in a folder that belong to no split; empty if README.md lists the files."""
    card = path / "README.md"
    if card.is_file() and re.search(r"^configs:", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        return []
    inside = [file.relative_to(path) for file in path.rglob("*") if extension(file) in FORMATS and file.is_file()]
    taken = {os.path.realpath(file) for file in read}
    return sorted(
        file
        for file in inside
        if os.path.realpath(path / file) not in taken
        and file.name not in FILES_TO_IGNORE
        and not any(part.startswith((".", "__")) for part in file.parts)
    )


def _snapshot_of_hub(path: Path) -> Path:
    """Return the current snapshot if a folder is a repository in the Hub's cache; else the folder itself."""
    current = path / "refs" / "main"
    if not current.is_file():
        return path
    snapshot = path / "snapshots" / current.read_text(encoding="utf-8").strip()
    return snapshot if snapshot.is_dir() else path


def plain_path(path: Path) -> Path:
    """Return a path without characters that `datasets` treats as patterns, URLs or variables; create a link if needed."""
    return path if _is_plain_path(path) else link_to(path, "files", f"{_hash_of_path(path)}{path.suffix}")


def _is_plain_path(path: Path) -> bool:
    text = os.path.abspath(path)
    return glob.escape(text) == text and not any(special in text for special in ("::", "://", "{", "^", "$"))


def _hash_of_path(path: Path) -> str:
    return short_digest(os.fsencode(os.path.abspath(path)))


def _mirrored(path: Path) -> Path:
    """Return a path of the folder without such characters, and without run directories in the folder.

    If necessary, this is a folder of links to single files, because `datasets` would resolve a link to the whole folder.
    """
    runs = _runs_in(path)
    if _is_plain_path(path.resolve()) and not runs:
        return path
    inside = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    files = {name: file for name, file in inside.items() if runs.isdisjoint(name.parents)}
    mirror = link_folder(_hash_of_path(path))
    for link in list(mirror.rglob("*")):
        if link.is_symlink() and link.relative_to(mirror) not in files:
            link.unlink(missing_ok=True)
    for name, file in files.items():
        link_to(file, mirror.name, name)
    return mirror


def _runs_in(path: Path) -> set[Path]:
    """Return relative paths of run directories in a folder: a run may have been placed next to its training data.

    Runs of version 0.1.0 have no marker until they are continued, but can be recognised by their journal.
    """
    found = set()
    for place, folders, files in os.walk(path):
        is_run = RUN_MARKER in files or (JOURNAL in files and says_prepared(Path(place, JOURNAL)))
        if is_run and Path(place) != path:
            found.add(Path(place).relative_to(path))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found


def choose_split(splits: Mapping[str, Callable[[], Dataset]], wanted: str, path: str | Path) -> Dataset:
    """Load a split, or a combination like `train[:10%]` or `train+test`.

    Args:
        splits: functions that load the splits, by name.
        wanted: split to load.
        path: path of the folder, or name of the dataset, for messages.

    Raises:
        DataError: if there is no such split.
    """
    if wanted in splits:
        return splits[wanted]()
    named = _names(wanted)
    missing = next((name for name in named if name not in splits), None)
    if missing is not None:
        raise DataError(
            f"{path} has no split {missing!r}; it has {list(splits)}. Set `dataset_train_split` or `held_out_split`."
        )
    loaded = {name: splits[name]() for name in set(named)}
    try:
        ranges = ReadInstruction.from_spec(wanted).to_absolute({name: len(rows) for name, rows in loaded.items()})
    except (ValueError, AssertionError) as error:
        raise DataError(f"The split {wanted!r} of {path} can't be read: {error}") from error
    try:
        return concatenate_datasets(
            [loaded[one.splitname].select(range(len(loaded[one.splitname]))[one.from_ : one.to]) for one in ranges]
        )
    except ValueError as error:
        raise DataError(f"The splits {wanted!r} of {path} have different columns: {error}") from error


def part_of(dataset: Dataset, wanted: str, path: Path) -> Dataset:
    """Return a dataset that is a single split of any name, or the part of it specified like `train[:10%]`."""
    if "[" not in wanted:
        return dataset
    return choose_split({name: lambda: dataset for name in _names(wanted)}, wanted, path)


def _names(wanted: str) -> list[str]:
    """Return the names of the splits in a specification like `train[:10%]+test`."""
    return [match[1] if (match := _SPLIT.match(part.strip())) else part for part in wanted.split("+")]
