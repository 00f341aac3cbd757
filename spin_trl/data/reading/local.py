"""Tell which dataset names are local files or folders, and which formats their extensions stand for."""

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
"""Supported file formats by extension."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
"""Extensions that may follow those of JSON, CSV and TSV files."""

DESCRIPTION = f"{', '.join(FORMATS)}; JSON and CSV also as {', '.join(COMPRESSIONS)}"
"""Description of all supported formats, for messages."""


def extension(name: str | os.PathLike[str]) -> str:
    """Return the extension of the format in lower case, ignoring that of a compression: `.jsonl` for `Rows.JSONL.gz`."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def is_local(name: str | os.PathLike[str]) -> bool:
    """Return whether a dataset's name is a path, which need not exist, rather than a Hub name or a function."""
    text, starts = os.fspath(name), ("./", "../", "~", "/", f".{os.sep}", f"..{os.sep}", os.sep)
    return extension(text) in FORMATS or text.startswith(starts) or os.path.exists(home_expanded(text))
