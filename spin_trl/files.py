"""Files that are there whole or not at all, whatever interrupts the writing, and how their content is known again.

A file's checksum is taken while the file is written ([`HashedFile`]): a second read would hash what the disk has made of it.
Digests of other things say by which definition they were computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

RUN_MARKER = ".spin_trl.json"
"""File at the top of a run directory that says what in it belongs to the run."""

JOURNAL = "journal.jsonl"
"""Usual name of a run's journal. A run of version 0.1.0 has no marker, and is known by it."""


def says_prepared(journal: Path) -> bool:
    """Whether a file is a run's journal, and says that the run's data has been prepared: then there is something to lose."""
    # There may be none, it may be another file, or its last line was not written to its end.
    with contextlib.suppress(OSError, ValueError), journal.open("rb") as lines:
        entries = (entry for line in lines if isinstance(entry := parse_json(line), dict))
        return any((entry.get("phase"), entry.get("stage")) == ("prepare", "data") for entry in entries)
    return False


_taken: ContextVar[dict[Path, Checksum] | None] = ContextVar("taken", default=None)

ADAPTER_CONFIG = "adapter_config.json"
_BASE_OF_ADAPTER = "base_model_name_or_path"

BLOCK = 1 << 20
"""Bytes that are read and hashed at once."""


@dataclass(frozen=True)
class Checksum:
    """What a file's content is known by.

    Attributes:
        size: bytes.
        sha256: of the content, 64 hexadecimal digits.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Checksum:
        """Read a file and hash it.

        Raises:
            OSError: the file can't be read.
        """
        hasher, size = hashlib.sha256(), 0
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hasher.update(block)
                size += len(block)
        return cls(size, hasher.hexdigest())

    @classmethod
    def of_adapter_config(cls, path: Path) -> Checksum:
        """Read an adapter's configuration and hash what it says, but for where its base model lies: that changes where a run
        directory is moved.

        Raises:
            OSError, ValueError: the file can't be read.
        """
        config = parse_json(path.read_text(encoding="utf-8"))
        return cls.of_bytes(json.dumps({**config, _BASE_OF_ADAPTER: None}, sort_keys=True).encode())

    @classmethod
    def of_bytes(cls, content: bytes) -> Checksum:
        """Hash a file's content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())


def checksums_in(
    folder: Path, taken: Mapping[Path, Checksum], names: Iterable[str] | None = None
) -> dict[str, Checksum]:
    """Checksums of files in a folder, by their paths in it.

    Args:
        folder: that was just written.
        taken: what [`models.saving.hashing`] has found. Other files, which are small (configuration, tokenizer), are read.
        names: paths in the folder; None: of all files.
    """
    every = sorted(folder.rglob("*")) if names is None else [folder / name for name in names]
    return {
        path.relative_to(folder).as_posix(): Checksum.of_adapter_config(path)
        if path.name == ADAPTER_CONFIG
        else taken.get(path.resolve()) or Checksum.of(path)
        for path in every
        if path.is_file()
    }


class HashedFile(io.RawIOBase):
    """A file that is written from its beginning to its end, and hashed on the way.

    Args:
        file: open for writing; it is closed with this one.

    Attributes:
        checksum: of what has been written so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._hasher, self._size = file, hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        """Append a content; returns its length in bytes."""
        view = memoryview(content).cast("B")
        self._file.write(view)
        self._hasher.update(view)
        self._size += len(view)
        return len(view)

    @property
    def checksum(self) -> Checksum:
        return Checksum(self._size, self._hasher.hexdigest())

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def taking_checksums() -> Iterator[dict[Path, Checksum]]:
    """Take the checksums of all files that [`write_atomically`] writes meanwhile in this thread, by path."""
    found: dict[Path, Checksum] = {}
    before = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(before)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> Checksum:
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
            write(cast("BinaryIO", file))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a write names no file, and nobody has asked for the temporary one
        with contextlib.suppress(OSError):  # where the file couldn't be made, either: that error is the one to raise
            temporary.unlink(missing_ok=True)
        raise
    taken = _taken.get()
    if taken is not None:
        taken[path.resolve()] = file.checksum
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


def give_back(folder: Path) -> None:
    """Remove a folder that isn't needed any more, so that an interrupt leaves it whole or not at all. A link stays.

    What can't be removed stays, too. What an interrupt has left of it goes when this is called again.
    """
    going = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(going, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)


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


def stamps(folder: Path, pattern: str) -> dict[str, list[int]]:
    """Size and time (ns) of the last change of files in a folder, by name: whoever replaces one changes them.

    Where they are the same, the content is taken for the same: hashing it takes as long as reading it.
    """
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob(pattern))}


def write_json(path: Path, value: Any) -> Checksum:
    """Write JSON, whole or not at all; returns the file's checksum."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON that somebody else may have written. Use it instead of `json.loads`, which also raises `RecursionError`.

    Args:
        text: the JSON.
        object_pairs_hook: as in `json.loads`.

    Raises:
        ValueError: the text is not valid JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Read JSON, or None if there is no such file.

    Raises:
        ValueError: it is no JSON; the message names the file.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8")) if path.exists() else None
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
