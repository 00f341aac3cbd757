"""Read text files line by line, compressed or not, and collect errors line by line."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...counts import counted
from ...errors import DataError
from ..columns import UNREADABLE

SHOWN_LINES = 5
"""Maximum number of bad lines of a file that a message lists. All are counted."""

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_ENCODINGS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""Encodings by byte order mark. UTF-32 comes first, because one of its marks begins with one of UTF-16's."""
_DECOMPRESS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
    b"\x04\x22\x4d\x18": lambda file: pa.CompressedInputStream(file, "lz4"),
}
"""Functions that decompress a file, by its first bytes."""


class BadLines:
    """Collects the errors in a file, so that they are reported together.

    Args:
        path: path of the file.
        as_rows: whether to represent unreadable lines as rows, which are left out or refused with the other bad rows when
            the data is prepared.
    """

    def __init__(self, path: Path, *, as_rows: bool = False) -> None:
        self.path, self.as_rows = path, as_rows
        self.count = 0
        self.shown: list[str] = []

    def add(self, where: str, problem: str) -> None:
        """Record a problem at a location like `line 7`."""
        self.count += 1
        if len(self.shown) < SHOWN_LINES:
            self.shown.append(f"{where}: {problem}")

    def rows(self, where: str, problem: str) -> Iterator[dict[str, Any]]:
        """Record a problem of a single row, or yield a row that represents it if `as_rows` is set."""
        if self.as_rows:
            yield {UNREADABLE: f"{self.path.name}, {where}: {problem}"}
        else:
            self.add(where, problem)

    def refuse(self) -> None:
        """Raise if problems have been recorded.

        Raises:
            DataError: if so; the message gives the file, its first bad lines, and their number.
        """
        if self.count == 1:
            raise DataError(f"{self.path}, {self.shown[0]}")
        if self.count:
            more = f" The first {SHOWN_LINES} are:" if self.count > SHOWN_LINES else ""
            shown = "\n".join(self.shown)
            raise DataError(f"{self.path}: {counted(self.count, 'row')} can't be read.{more}\n{shown}")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file to read its decompressed bytes. The compression is detected from its first bytes.

    Raises:
        DataError: if the file can't be read, is damaged, or is only a Git LFS pointer.
    """
    try:
        with contextlib.ExitStack() as stack:
            file: Any = stack.enter_context(path.open("rb"))
            start = file.peek(64)[:64]
            if start.startswith(_GIT_LFS):
                raise DataError(f"{path} is a Git LFS pointer, not the data. Fetch the data with `git lfs pull`.")
            decompress = next((how for mark, how in _DECOMPRESS.items() if start.startswith(mark)), None)
            if decompress is not None:
                file = stack.enter_context(decompress(file))
            elif start.startswith(b"PK\x03\x04"):
                file = stack.enter_context(_only_member(path, file, stack))
            yield stack.enter_context(io.BufferedReader(file, 1 << 20))
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise DataError(f"{path} can't be read: {error}") from error


def _only_member(path: Path, file: Any, stack: contextlib.ExitStack) -> Any:
    """Open the only file in a ZIP archive, which stays open until the stack is closed."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
        return archive.open(_only_name(path, archive))
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # depending on what is damaged, `zipfile` raises nearly anything
        raise DataError(f"{path} can't be read as a ZIP archive: {error}") from error


def _only_name(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        listed = f" ({', '.join(names[:5])})" if names else ""
        raise DataError(f"{path} holds {counted(len(names), 'file')}{listed}; expected a single file. Unpack it.")
    return names[0]


def byte_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text file, with line ends, as UTF-8 without a byte order mark. UTF-16 and UTF-32 are converted.

    Lines end with a line feed or, in a file that has none, with a carriage return, as written by old programs.

    Raises:
        DataError: as in [`opened`].
    """
    with opened(path) as file:
        start = file.peek(4)
        encoding, end = _encoding_of(start[:4]), "\r" if b"\r" in start and b"\n" not in start else "\n"
        if start.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        if encoding is None and end == "\n":
            yield from file
            return
        # Every byte is a Latin-1 character, so UTF-8 passes through it unchanged.
        was, becomes = (encoding, "utf-8") if encoding else ("latin-1", "latin-1")
        try:
            for text in io.TextIOWrapper(file, encoding=was, newline=end):
                yield text.encode(becomes)
        except UnicodeError as error:
            name = was.upper().removesuffix("-LE").removesuffix("-BE")
            raise DataError(f"{path} begins as {name}, but is not {name} throughout: {error}") from error


def _encoding_of(start: bytes) -> str | None:
    """Detect the encoding from a file's first four bytes; return None for UTF-8.

    Without a byte order mark, UTF-16 is recognised by the zero bytes of the ASCII characters that these files begin with.
    """
    marked = next((name for name, marks in _ENCODINGS.items() if start.startswith(marks)), None)
    zeros = "".join("0" if byte == 0 else "x" for byte in start)
    return marked or {"x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(zeros)


def decoded(line: bytes) -> str:
    """Decode a line.

    Raises:
        ValueError: if it is not UTF-8; the message says what to do about it.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wrong = f"{error.reason}, byte 0x{line[error.start]:02x}"
        raise ValueError(f"not UTF-8 ({wrong}): save it as UTF-8; Windows programs often write Windows-1252") from None
