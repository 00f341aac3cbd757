"""Atomic file writes, which leave a complete file or none when interrupted, and checksums that identify content.

A file's checksum is computed while it is written ([`HashedFile`]): reading it back would also hash damage by the disk.
Digests of other things record the definition by which they were computed.
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
"""File at the top of a run directory that lists which of its files belong to the run."""

JOURNAL = "journal.jsonl"
"""Usual name of a run's journal. It identifies a run of version 0.1.0, which has no marker."""


def says_prepared(journal: Path) -> bool:
    """Return whether a file is a run's journal that records prepared data, i.e. whether there is something to lose."""
    # The file may be missing or something else, or its last line may be incomplete.
    with contextlib.suppress(OSError, ValueError), journal.open("rb") as lines:
        entries = (entry for line in lines if isinstance(entry := parse_json(line), dict))
        return any((entry.get("phase"), entry.get("stage")) == ("prepare", "data") for entry in entries)
    return False


_taken: ContextVar[dict[Path, Checksum] | None] = ContextVar("taken", default=None)

ADAPTER_CONFIG = "adapter_config.json"
_BASE_OF_ADAPTER = "base_model_name_or_path"

BLOCK = 1 << 20
"""Number of bytes that are read and hashed at a time."""


@dataclass(frozen=True)
class Checksum:
    """Size and hash that identify a file's content.

    Attributes:
        size: size in bytes.
        sha256: SHA-256 of the content, 64 hexadecimal digits.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Checksum:
        """Read a file and hash it.

        Raises:
            OSError: if the file can't be read.
        """
        hasher, size = hashlib.sha256(), 0
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hasher.update(block)
                size += len(block)
        return cls(size, hasher.hexdigest())

    @classmethod
    def of_adapter_config(cls, path: Path) -> Checksum:
        """Hash an adapter's configuration except for its base model's path, which changes when a run directory is moved.

        Raises:
            OSError, ValueError: if the file can't be read.
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
    """Return the checksums of files in a folder by relative path.

    Args:
        folder: folder that was just written.
        taken: checksums from [`models.saving.hashing`]. Other files, which are small (configuration, tokenizer), are read.
        names: relative paths of the files; None: all files.
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
    """A file that is written sequentially and hashed at the same time.

    Args:
        file: underlying file, open for writing; it is closed together with this one.

    Attributes:
        checksum: checksum of everything written so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._hasher, self._size = file, hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        """Append bytes and return their number."""
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
    """Collect the checksums of all files that [`write_atomically`] writes within the context in this thread, by path."""
    found: dict[Path, Checksum] = {}
    before = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(before)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> Checksum:
    """Write a temporary file next to `path` with `write`, then rename it to `path`. A failure leaves nothing behind.

    Args:
        path: path of the file.
        write: function that writes the content to the open binary file it is called with.

    Returns:
        The checksum of the file.

    Raises:
        OSError: if the disk is full, or the folder can't be written.
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
            error.filename = str(path)  # a failed write names no file, or the temporary one
        with contextlib.suppress(OSError):  # fails if the file could not be created: raise the original error
            temporary.unlink(missing_ok=True)
        raise
    taken = _taken.get()
    if taken is not None:
        taken[path.resolve()] = file.checksum
    return file.checksum


def write_text(path: Path, text: str) -> Checksum:
    """Write text as UTF-8 atomically and return the file's checksum."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link; the target of a link is kept."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def give_back(folder: Path) -> None:
    """Remove a folder that is no longer needed, such that an interrupt leaves either the whole folder or none of it.

    A link is kept, and so is anything that can't be removed. Leftovers of an interrupt are removed by the next call.
    """
    going = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(going, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(folder: Path, *, is_main: bool = True, wait: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Yield a temporary folder next to `folder` to fill, and rename it to `folder` when it is complete.

    A failure leaves nothing behind. If `folder` is a link, the target of the link is kept.

    Args:
        folder: final path of the folder.
        is_main: whether this process moves folders; of several processes that fill the folder together, one does.
        wait: barrier that returns when all processes have reached it.

    Raises:
        OSError: if the disk is full, or the folder can't be written.
    """
    unfinished = folder.with_name(f".{folder.name}.tmp")
    if is_main:
        shutil.rmtree(unfinished, ignore_errors=True)  # leftovers of an interrupt
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
    """Return size and modification time (ns) of files in a folder, by name, which change when a file is replaced.

    If they are equal, the content is assumed to be the same: hashing it would take as long as reading it.
    """
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob(pattern))}


def write_json(path: Path, value: Any) -> Checksum:
    """Write JSON atomically and return the file's checksum."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON from outside. Use it instead of `json.loads`, which raises `RecursionError` for deeply nested text.

    Args:
        text: the JSON.
        object_pairs_hook: as in `json.loads`.

    Raises:
        ValueError: if the text is not valid JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Read JSON; return None if the file does not exist.

    Raises:
        ValueError: if the file is not JSON; the message names the file.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


DEFINITION = 2
"""Version of the definition by which new digests of datasets, templates and models are computed."""


def short_digest(content: str | bytes, digits: int = 16) -> str:
    """Return the first hexadecimal digits of the SHA-256 of bytes, or of text encoded as UTF-8."""
    return parts_digest([content], digits)


def parts_digest(parts: Iterable[str | bytes], digits: int = 16) -> str:
    """Like [`short_digest`], for content that comes in parts, which need not be in memory together."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else part)
    return hasher.hexdigest()[:digits]


def json_digest(value: Any, digits: int = 16) -> str:
    """Like [`short_digest`], for a value as JSON with sorted keys. Values that JSON can't hold are converted to text."""
    return short_digest(json.dumps(value, sort_keys=True, default=str), digits)


def numbered(definition: int, digest: str) -> str:
    """Return a digest that records the definition by which it was computed.

    Args:
        definition: number of the definition. Digests of definition 1 (version 0.1.0) do not record it.
        digest: at least 16 hexadecimal digits; the first 16 are used.

    Returns:
        `89abcdef01234567` for definition 1, and `0289abcdef01234567`, which is two digits longer, for definition 2.
    """
    return digest[:16] if definition == 1 else f"{definition:02d}{digest[:16]}"


def definition_of(digest: str | None) -> int:
    """Return the definition by which a digest was computed; the newest if there is no digest yet (None)."""
    if digest is None:
        return DEFINITION
    return int(digest[:2]) if len(digest) == 18 and digest[:2].isdecimal() else 1


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """Expand `~` in a path to the user's home, as a shell does.

    If there is no such user, the path is returned relative to the current folder, so that it is not expanded again.
    """
    expanded = os.path.expanduser(path)
    return Path.cwd() / expanded if expanded.startswith("~") else Path(expanded)
