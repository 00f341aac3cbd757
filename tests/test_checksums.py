"""Checksums are those of the files, and are taken without reading them."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from spin_trl.checksums import BLOCK, Checksum, HashedFile, hashing

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of "abc": FIPS 180-2, appendix B.1."""


def test_the_checksum_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    """By the standard's own example."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert Checksum.of(tmp_path / "abc") == Checksum(3, ABC)


def test_a_file_larger_than_a_block_is_hashed_whole(tmp_path: Path) -> None:
    """And one byte more than fits in a block is not forgotten."""
    content = b"x" * BLOCK + b"y"
    (tmp_path / "large").write_bytes(content)
    assert Checksum.of(tmp_path / "large") == Checksum(BLOCK + 1, hashlib.sha256(content).hexdigest())


def test_what_is_written_in_parts_has_the_checksum_of_the_whole(tmp_path: Path) -> None:
    """Of every kind of bytes that libraries hand over."""
    with (tmp_path / "abc").open("wb") as raw, HashedFile(raw) as file:
        file.write(b"a")
        file.write(memoryview(bytearray(b"b")))
        file.write(pa.py_buffer(b"c"))
    assert file.checksum == Checksum(3, ABC)
    assert (tmp_path / "abc").read_bytes() == b"abc"


def test_parquet_is_hashed_while_it_is_written(tmp_path: Path) -> None:
    """Arrow writes through the file."""
    with (tmp_path / "rows").open("wb") as raw, HashedFile(raw) as file:
        pq.write_table(pa.table({"ids": [[1, 2], [], [3]]}), file)
    assert file.checksum == Checksum.of(tmp_path / "rows")
    assert pq.read_table(tmp_path / "rows").num_rows == 3


@pytest.mark.parametrize("place", [str, Path], ids=["str", "Path"])
def test_torch_and_safetensors_are_hashed_from_memory(place: type, tmp_path: Path) -> None:
    """Weights of several formats, an empty one and one without dimensions; and what is loaded is what was saved."""
    weights = {
        "b": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "a": torch.randn(300, 7),
        "scalar": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "long": torch.arange(5),
    }
    with hashing() as found:
        save_file(weights, place(tmp_path / "model.safetensors"), metadata={"format": "pt"})
        torch.save(weights, place(tmp_path / "optimizer.pt"))
    assert found == {path: Checksum.of(path) for path in tmp_path.iterdir()}
    for loaded in (
        load_file(tmp_path / "model.safetensors"),
        torch.load(tmp_path / "optimizer.pt", weights_only=True),
    ):
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_damage_between_memory_and_disk_is_found(tmp_path: Path) -> None:
    """A second read would have hashed the damage: here a bit has changed before anybody could read the file."""
    path = tmp_path / "model.safetensors"
    with hashing() as found:
        save_file({"a": torch.ones(8)}, path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert found[path.resolve()] != Checksum.of(path)


def test_nothing_is_hashed_afterwards(tmp_path: Path) -> None:
    """The libraries' functions are their own again."""
    save = torch.save
    with hashing() as found:
        assert torch.save is not save
    torch.save(1, tmp_path / "later.pt")
    assert torch.save is save
    assert found == {}
