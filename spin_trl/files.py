"""Files that are there whole or not at all, whatever interrupts the writing; digests that say how they were computed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .checksums import Checksum, HashedFile, note

RUN_MARKER = ".spin_trl.json"
"""File at the top of a run directory that says what in it belongs to the run."""

JOURNAL = "journal.jsonl"
"""Usual name of a run's journal. A run of version 0.1.0 has no marker, and is known by it."""


def says_prepared(journal: Path) -> bool:
    """Whether a file is a run's journal, and says that the run's data has been prepared: then there is something to lose."""
    # There may be none, it may be another file, or its last line was not written to its end.
    with contextlib.suppress(OSError, ValueError), journal.open("rb") as lines:
        entries = (entry for line in lines if isinstance(entry := json.loads(line), dict))
        return any((entry.get("phase"), entry.get("stage")) == ("prepare", "data") for entry in entries)
    return False


def write_atomically(path: Path, write: Callable[[HashedFile], Any]) -> Checksum:
    """Let `write` write a file beside `path`, then rename it into place. If it fails, nothing is left behind.

    Args:
        path: of the file.
        write: called with the open file, which takes bytes.

    Returns:
        The checksum of what was written.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as raw, HashedFile(raw) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    note(path, file.checksum)
    return file.checksum


def write_text(path: Path, text: str) -> Checksum:
    """Write a text in UTF-8, whole or not at all; returns the file's checksum."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link; what a link points to stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


@contextlib.contextmanager
def whole_folder(folder: Path, *, is_main: bool = True, wait: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Give a folder beside `folder` to fill, and put it into `folder`'s place when it is complete.

    If filling it fails, nothing is left behind. Of a link that stands in its place, what it points to stays.

    Args:
        folder: where others look for it.
        is_main: whether this process moves folders; of several that fill it together, one does.
        wait: returns when all of them have come as far.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    unfinished = folder.with_name(f".{folder.name}.tmp")
    if is_main:
        shutil.rmtree(unfinished, ignore_errors=True)  # what an interrupt has left there
    wait()
    try:
        yield unfinished
        if is_main:
            remove(folder)
            unfinished.rename(folder)
    except BaseException:
        if is_main:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    wait()


def write_json(path: Path, value: Any) -> Checksum:
    """Write JSON, whole or not at all; returns the file's checksum."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or None if there is no such file.

    Raises:
        ValueError: it is no JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


DEFINITION = 2
"""Number of the definition by which new digests of datasets, templates and models are computed."""


def short_digest(content: str | bytes, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a content; a text is taken as UTF-8."""
    return parts_digest([content], digits)


def parts_digest(parts: Iterable[str | bytes], digits: int = 16) -> str:
    """The same of a content that comes in parts, which never are in memory together."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else part)
    return hasher.hexdigest()[:digits]


def json_digest(value: Any, digits: int = 16) -> str:
    """The same of a value as JSON, whatever the order of its keys. What JSON can't hold is taken as text."""
    return short_digest(json.dumps(value, sort_keys=True, default=str), digits)


def numbered(definition: int, digest: str) -> str:
    """A digest that says by which definition it was computed.

    Args:
        definition: its number. Digests of definition 1 (version 0.1.0) carry none.
        digest: at least 16 hexadecimal digits, of which 16 are kept.

    Returns:
        `89abcdef01234567` by definition 1, and `0289abcdef01234567`, two digits longer, by definition 2.
    """
    return digest[:16] if definition == 1 else f"{definition:02d}{digest[:16]}"


def definition_of(digest: str | None) -> int:
    """The definition by which a digest was computed. None, for what has not been recorded yet: the newest."""
    if digest is None:
        return DEFINITION
    return int(digest[:2]) if len(digest) == 18 and digest[:2].isdecimal() else 1


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the user's home instead of `~`, as a shell would have it.

    Where there is no such user, it is a name like any other, in the current folder: nobody must expand it again.
    """
    expanded = os.path.expanduser(path)
    return Path.cwd() / expanded if expanded.startswith("~") else Path(expanded)
