"""CSV files of datasets on the Hub: fetched as they are, to be read as those of a folder.

The reader of `datasets` makes a number of 007 and nothing of NA. So what it finds is fetched, but not read by it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from datasets import load_dataset_builder
from huggingface_hub import constants, snapshot_download
from huggingface_hub.file_download import repo_folder_name

from ...errors import DataError
from .folder import Folder, described_by, format_of, look_into


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
    inside = [_path_in_repository(file, name) for file in files]
    wanted = ["README.md", *inside]
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
