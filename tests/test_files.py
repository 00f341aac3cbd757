"""A file is either complete or absent, however its writing is interrupted."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from messages import refused
from spin_trl.files import (
    BLOCK,
    DEFINITION,
    Checksum,
    HashedFile,
    definition_of,
    give_back,
    json_digest,
    numbered,
    parse_json,
    parts_digest,
    read_json,
    short_digest,
    whole_folder,
    write_atomically,
    write_json,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of "abc": FIPS 180-2, appendix B.1."""


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The form is readable to people, too."""
    value = {"stage": "iteration-0", "figures": [1, 2.5, None], "θ": "é"}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "\n" in (tmp_path / "value.json").read_text(encoding="utf-8").strip()


def test_a_file_that_is_not_there_reads_as_none(tmp_path: Path) -> None:
    """In this case, nothing was finished yet."""
    assert read_json(tmp_path / "value.json") is None


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("bad")], ids=repr
)
def test_what_stood_there_stays_when_writing_fails(error: BaseException, tmp_path: Path) -> None:
    """The partial new content is removed, the old content is intact, and the error reaches the caller."""
    path = tmp_path / "value.json"
    write_json(path, {"old": True})

    def half(file: HashedFile) -> None:
        file.write(b'{"new": ')
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, half)
    assert read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["value.json"]


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"a":' * 100_000, "1" * 5_000, "{", b"\xff"])
def test_json_that_cant_be_read_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_nothing_is_seen_under_the_name_before_it_is_whole(tmp_path: Path) -> None:
    """The name appears when the content is complete."""
    path = tmp_path / "value.bin"

    def write(file: HashedFile) -> None:
        file.write(b"first half")
        assert not path.exists()
        assert len(os.listdir(tmp_path)) == 1, "a rename across file systems is a copy"
        file.write(b", second half")

    write_atomically(path, write)
    assert path.read_bytes() == b"first half, second half"
    assert os.listdir(tmp_path) == ["value.bin"]


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure after the rename must not leave an empty file, so fsync comes first."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    write_json(tmp_path / "value.json", 1)
    assert order[:2] == ["fsync", "rename"]


def test_values_that_json_cant_hold_leave_nothing(tmp_path: Path) -> None:
    """The value is checked before the file is written."""
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"path": object()})
    assert os.listdir(tmp_path) == []
    assert json.loads("null") is None


def test_a_digest_says_by_which_definition_it_was_computed() -> None:
    """Digests of version 0.1.0 have no number; new ones are computed by the newest definition."""
    digits = "0123456789abcdef"
    assert numbered(1, digits + "ff") == digits
    assert numbered(2, digits + "ff") == f"02{digits}"
    assert numbered(12, digits) == f"12{digits}"
    assert [definition_of(digest) for digest in (digits, f"02{digits}", f"12{digits}", None)] == [
        1,
        2,
        12,
        DEFINITION,
    ]


def test_a_folder_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    """The earlier content is gone, and so are the leftovers of an interrupt next to it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "half").touch()
    with whole_folder(tmp_path / "model") as unfinished:
        assert not unfinished.exists()
        unfinished.mkdir()
        (unfinished / "new").touch()
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with refused(OSError, "full"), whole_folder(tmp_path / "model") as unfinished:
        unfinished.mkdir()
        (unfinished / "half").touch()
        raise OSError("full")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["model", "model/old"]


def test_of_a_link_in_its_place_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").touch()
    (tmp_path / "model").symlink_to("elsewhere")
    with whole_folder(tmp_path / "model") as unfinished:
        unfinished.mkdir()
    assert (tmp_path / "elsewhere" / "theirs").exists()
    assert (tmp_path / "model").is_dir()
    assert not (tmp_path / "model").is_symlink()


def test_a_folder_that_is_given_back_is_whole_or_gone_wherever_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").touch()

    def interrupted(folder: Path, ignore_errors: bool) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            give_back(model)
    assert not model.exists()
    give_back(model)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_is_given_back_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").symlink_to("elsewhere")
    give_back(tmp_path / "model")
    assert (tmp_path / "model").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]


def test_of_several_processes_one_moves_the_folder_and_all_wait(tmp_path: Path) -> None:
    waited: list[bool] = []
    with whole_folder(tmp_path / "model", is_main=False, wait=lambda: waited.append(True)) as unfinished:
        unfinished.mkdir()
        assert len(waited) == 1
    assert len(waited) == 2
    assert unfinished.exists()
    assert not (tmp_path / "model").exists()


def test_a_short_digest_is_the_beginning_of_the_sha_256() -> None:
    """The digest of `abc` is that of FIPS 180-2."""
    assert short_digest("abc") == short_digest(b"abc") == "ba7816bf8f01cfea"
    assert short_digest("abc", 8) == "ba7816bf"


def test_a_digest_is_that_of_sha256sum() -> None:
    """The expected values were computed with `sha256sum` of `boat`, and of `{"a": 1}`; parts count as one content."""
    digest = "25cdb46d8d2115a24eb15c3c58f34f3330cfca4fec249ff70b7cad2bb560a0dd"
    assert short_digest("boat") == short_digest(b"boat") == parts_digest(["bo", b"at"]) == digest[:16]
    assert short_digest("boat", 64) == digest
    assert json_digest({"a": 1}, 20) == "f9d86028c6e0d64e2251"


def test_the_checksum_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    """The expected value is the standard's own example."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert Checksum.of(tmp_path / "abc") == Checksum(3, ABC)


def test_a_file_larger_than_a_block_is_hashed_whole(tmp_path: Path) -> None:
    """One byte more than fits in a block is included."""
    content = b"x" * BLOCK + b"y"
    (tmp_path / "large").write_bytes(content)
    assert Checksum.of(tmp_path / "large") == Checksum(BLOCK + 1, hashlib.sha256(content).hexdigest())


def test_what_is_written_in_parts_has_the_checksum_of_the_whole(tmp_path: Path) -> None:
    """This holds for every kind of bytes that libraries pass."""
    with (tmp_path / "abc").open("wb") as raw, HashedFile(raw) as file:
        file.write(b"a")
        file.write(memoryview(bytearray(b"b")))
        file.write(pa.py_buffer(b"c"))
    assert file.checksum == Checksum(3, ABC)
    assert (tmp_path / "abc").read_bytes() == b"abc"


def test_parquet_is_hashed_while_it_is_written(tmp_path: Path) -> None:
    """Arrow writes through the file object."""
    with (tmp_path / "rows").open("wb") as raw, HashedFile(raw) as file:
        pq.write_table(pa.table({"ids": [[1, 2], [], [3]]}), file)
    assert file.checksum == Checksum.of(tmp_path / "rows")
    assert pq.read_table(tmp_path / "rows").num_rows == 3
