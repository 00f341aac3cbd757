"""Text files are read line by line, whatever their compression and encoding, and bad lines are reported together."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from messages import names, refused
from spin_trl.data.columns import UNREADABLE
from spin_trl.data.reading.lines import BadLines, byte_lines, opened
from spin_trl.errors import DataError

TEXT = "é\r\n\nlast".encode()
LINES = ["é\r\n".encode(), b"\n", b"last"]


def by_arrow(kind: str) -> Callable[[bytes], bytes]:
    def compress(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, kind) as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()

    return compress


def zipped(content: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names or ("__MACOSX/rows", "rows/", "rows/rows.csv"):
            archive.writestr(name, content if name[-1] != "/" else b"")
    return file.getvalue()


def in_its_list(content: bytes, offset: int, value: int) -> bytes:
    """Return a ZIP archive with a byte changed in the file's entry in its central directory."""
    at = content.index(b"PK\x01\x02") + offset
    return content[:at] + bytes([value]) + content[at + 1 :]


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
    "zip": zipped,
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "mark inside gzip": lambda content: gzip.compress(b"\xef\xbb\xbf" + content),
    "UTF-16, little end first": lambda content: b"\xff\xfe" + content.decode().encode("utf-16-le"),
    "UTF-16, big end first": lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
}


@pytest.mark.parametrize("way", WAYS)
def test_lines_are_the_same_however_they_are_stored(way: str, tmp_path: Path) -> None:
    """The format is recognised by the first bytes of a file, not by its name; lines are UTF-8, with their ends."""
    (tmp_path / "rows").write_bytes(WAYS[way](TEXT))
    assert list(byte_lines(tmp_path / "rows")) == LINES


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (gzip.compress(TEXT * 99)[:-20], ("end-of-stream",)),
        (lzma.compress(TEXT * 99)[:-9] + b"123456789", ("Corrupt",)),
        (b"PK\x03\x04 is no archive", ("zip file",)),
        (in_its_list(zipped(TEXT, "a.csv"), 6, 84), ("ZIP", "8.4")),  # of a later version: NotImplementedError
        (in_its_list(zipped(TEXT, "a.csv"), 8, 1), ("ZIP", "encrypted")),  # RuntimeError
        (zipped(TEXT, "a.csv", "b.csv"), ("2 files", "a.csv, b.csv")),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("Git LFS", "`git lfs pull`")),
        (b"\xff\xfea\x00b", ("UTF-16",)),
    ],
    ids=["gzip", "lzma", "zip", "later zip", "encrypted zip", "two members", "git lfs", "utf-16"],
)
def test_a_file_that_is_damaged_is_named(content: bytes, named: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(content)
    with refused(DataError, tmp_path / "rows", *named):
        list(byte_lines(tmp_path / "rows"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refused(DataError, tmp_path / "nowhere", "[Errno 2]"), opened(tmp_path / "nowhere"):
        pass


def test_bad_lines_are_said_together(tmp_path: Path) -> None:
    """One bad line is reported in one line, several as a list of at most five with their number; none is no error."""
    path = Path("rows.csv")
    bad = BadLines(path)
    bad.refuse()
    assert list(bad.rows("line 2", "no JSON")) == []
    with refused(DataError, "rows.csv, line 2: no JSON"):
        bad.refuse()
    for number in range(3, 9):
        bad.add(f"line {number}", "no JSON")
    with pytest.raises(DataError) as error:
        bad.refuse()
    whole, *each = str(error.value).splitlines()
    assert names(whole, "rows.csv", "7 rows", "first 5")
    assert each == [f"line {number}: no JSON" for number in range(2, 7)]


def test_a_line_that_may_be_left_out_becomes_a_row() -> None:
    """It is later refused or left out with the other bad rows."""
    bad = BadLines(Path("data/rows.csv"), as_rows=True)
    assert list(bad.rows("line 2", "no JSON")) == [{UNREADABLE: "rows.csv, line 2: no JSON"}]
    bad.refuse()
