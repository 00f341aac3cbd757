"""Which names of datasets are files or folders on this machine, and what their extensions say."""

from __future__ import annotations

import os
from pathlib import Path

from ...files import home_expanded

FORMATS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Formats of files that are read, by their extensions."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
"""Extensions that may follow those of JSON, CSV and TSV files."""

DESCRIPTION = f"{', '.join(FORMATS)}; JSON and CSV also as {', '.join(COMPRESSIONS)}"
"""All that is read, for messages."""


def extension(name: str | os.PathLike[str]) -> str:
    """The extension that says the format, in lower case and without that of a compression: `.jsonl` for `Rows.JSONL.gz`."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def is_local(name: str | os.PathLike[str]) -> bool:
    """Whether a dataset's name is a path, of something that exists or not, and no name on the Hub and no function."""
    text, starts = os.fspath(name), ("./", "../", "~", "/", f".{os.sep}", f"..{os.sep}", os.sep)
    return extension(text) in FORMATS or text.startswith(starts) or os.path.exists(home_expanded(text))
