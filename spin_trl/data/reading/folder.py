"""Folders with data files, and datasets on the Hub: files, splits and configurations as `datasets` finds them.

CSV files on the Hub are fetched as they are, to be read as those of a folder: the reader of `datasets` makes a number of 007
and nothing of NA. So what it finds is fetched, but not read by it.
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
"""Folders of Linux whose files are no files. Data may lie in `/dev/shm`, which is a disk in memory."""

_SPLIT = re.compile(r"^(\w+(?:[.-]\w+)*)(\[.*\])?$")


@dataclass(frozen=True)
class Folder:
    """What is in a folder.

    Attributes:
        format: of its files: `json`, `csv`, `parquet`, `arrow`, ...
        splits: files of each split.
        options: what the folder's README.md says about how its files are read.
    """

    format: str
    splits: dict[str, list[Path]]
    options: dict[str, Any] = field(default_factory=dict)


def look_into(path: Path, config: str | None = None) -> Folder:
    """Find the data files of a folder. What lies in run directories below it is no data.

    Args:
        path: of the folder.
        config: which configuration, where README.md names several.

    Raises:
        DataError: there are none, or there are several configurations and none of them is named.
    """
    real = os.path.realpath(path)
    if real in _OF_THE_SYSTEM or real.startswith(tuple(f"{folder}/" for folder in _OF_THE_SYSTEM if folder != "/dev")):
        raise DataError(
            f"{path} is a folder of the operating system, and holds no data. Name the folder with the data."
        )
    path = _snapshot_of_hub(path)
    try:
        with quiet("huggingface_hub.repocard"):  # which warns of a README.md that is only there to be read
            builder = load_dataset_builder(str(_mirrored(path)), config)
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise DataError(
            f"{path} holds neither data files ({DESCRIPTION}) nor what `Dataset.save_to_disk` wrote."
        ) from error
    except ValueError as error:
        reason = str(error).partition("\nExample of usage")[0].replace("\n", " ")
        advice = " Set `dataset_config`." if "onfig" in reason else ""
        raise DataError(f"The folder {path} can't be read: {reason}{advice}") from error
    except (YAMLError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # `datasets` takes for granted what README.md says of files and of features.
        raise DataError(
            f"The folder {path} can't be read: its README.md does not say what `datasets` reads there ({error!r}). Correct "
            "what stands between its lines of `---`, or remove it."
        ) from error
    found = described_by(builder, Path)
    unread = _unread(path, [file for split in found.splits.values() for file in split])
    if unread:
        named = unread[0] if len(unread) == 1 else f"{unread[0]} and {len(unread) - 1} more"
        advice = "Of a folder, files of one format are read, and only those whose names say the split, if some do."
        logger.warning("%s holds data files that are not read: %s. %s", path, named, advice)
    return found


def described_by(builder: DatasetBuilder, place: Callable[[str], Path]) -> Folder:
    """What a builder of `datasets` would read.

    Args:
        builder: of data files.
        place: where a file is on this machine that the builder calls so.
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
    """The format of a builder's files: `json`, `csv`, `parquet`, ..."""
    return type(builder).__module__.rpartition(".")[-1]


def fetched_files(name: str, config: str | None, revision: str | None) -> Folder | None:
    """The files of a dataset on the Hub that consists of CSV; None: it consists of something else.

    Where the Hub can't be reached, what was fetched earlier is taken.

    Args:
        name: of the dataset.
        config: which configuration.
        revision: branch or commit.

    Raises:
        Exception: of `datasets` and `huggingface_hub`, which have many ways to say no.
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
    """What lies in the Hub's cache. Not all files of the dataset may be there: only its CSV was fetched."""
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
    """A file's path in its repository, of `hf://datasets/NAME@COMMIT/PATH`."""
    return file.removeprefix("hf://datasets/").removeprefix(name).partition("/")[2]


def _unread(path: Path, read: Sequence[Path]) -> list[Path]:
    """Data files of a folder that are in no split, unless its README.md says which are."""
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
    """The current snapshot, where a folder is that of a repository in the Hub's cache."""
    current = path / "refs" / "main"
    if not current.is_file():
        return path
    snapshot = path / "snapshots" / current.read_text(encoding="utf-8").strip()
    return snapshot if snapshot.is_dir() else path


def plain_path(path: Path) -> Path:
    """A file's path without characters that `datasets` takes for patterns or addresses: a link, if it has some."""
    return path if _is_plain_path(path) else link_to(path, "files", f"{_hash_of_path(path)}{path.suffix}")


def _is_plain_path(path: Path) -> bool:
    text = os.path.abspath(path)
    return glob.escape(text) == text and not any(special in text for special in ("::", "://", "{", "^"))


def _hash_of_path(path: Path) -> str:
    return short_digest(os.fsencode(os.path.abspath(path)))


def _mirrored(path: Path) -> Path:
    """A folder's path without such characters, and without run directories in it.

    If it has some, it is a folder of links, since `datasets` follows one to it.
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
    """The run directories below a folder, seen from it: a run may have been put beside the data that it trains on.

    Those of version 0.1.0 have no marker until they are continued, but their journal says what they are.
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
    """Load a split, or what is written like `train[:10%]` or `train+test`.

    Args:
        splits: what loads each of them.
        wanted: which.
        path: of the folder, or the dataset's name, for messages.

    Raises:
        DataError: there is no such split.
    """
    if wanted in splits:
        return splits[wanted]()
    named = _names(wanted)
    missing = next((name for name in named if name not in splits), None)
    if missing is not None:
        raise DataError(
            f"{path} has no split {missing!r}; there are {list(splits)}. Set `dataset_train_split`, or `held_out_split`."
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
        raise DataError(f"The splits {wanted!r} of {path} hold different columns: {error}") from error


def part_of(dataset: Dataset, wanted: str, path: Path) -> Dataset:
    """A dataset that is one split, whatever it is called: as a whole, or the part that is written like `train[:10%]`."""
    if "[" not in wanted:
        return dataset
    return choose_split({name: lambda: dataset for name in _names(wanted)}, wanted, path)


def _names(wanted: str) -> list[str]:
    """The splits in `train[:10%]+test`."""
    return [match[1] if (match := _SPLIT.match(part.strip())) else part for part in wanted.split("+")]
