"""Checksums of files, taken while they are written: so that damage is found before anybody relies on a file.

A second read would hash what the disk has made of the content. So what this package writes itself goes through a
[`HashedFile`], and for what torch and safetensors write there is [`hashing`].
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

_taken: ContextVar[dict[Path, Checksum] | None] = ContextVar("taken", default=None)

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"

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
        config = json.loads(path.read_text(encoding="utf-8"))
        return cls.of_bytes(json.dumps({**config, BASE: None}, sort_keys=True).encode())

    @classmethod
    def of_bytes(cls, content: bytes) -> Checksum:
        """Hash a file's content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())


def checksums_in(folder: Path, taken: Mapping[Path, Checksum]) -> dict[str, Checksum]:
    """Checksums of all files in a folder, by their paths in it.

    Args:
        folder: that was just written.
        taken: what [`hashing`] has found. Other files, which are small (configuration, tokenizer), are read.
    """
    return {
        path.relative_to(folder).as_posix(): Checksum.of_adapter_config(path)
        if path.name == ADAPTER_CONFIG
        else taken.get(path.resolve()) or Checksum.of(path)
        for path in sorted(folder.rglob("*"))
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
def hashing() -> Iterator[dict[Path, Checksum]]:
    """Take the checksums of all files that are written meanwhile, by path: by `torch.save` and safetensors in this process,
    and by [`files.write_atomically`] in this thread.

    safetensors writes from the tensors' memory without a hook. There the tensors' memory is hashed, in the order in which
    the header of the new file, the only part of it that is read, says that they lie in it.
    """
    import safetensors.torch  # here: a report needs checksums, and not the seconds that torch's import takes
    import torch

    found: dict[Path, Checksum] = {}
    before = _taken.set(found)
    save, serialize = torch.save, safetensors.torch.serialize_file

    def hashed_save(value: Any, place: Any, *rest: Any, **settings: Any) -> None:
        if not isinstance(place, str | os.PathLike):
            save(value, place, *rest, **settings)
            return
        with Path(place).open("wb") as raw, HashedFile(raw) as file:
            save(value, file, *rest, **settings)
        found[Path(place).resolve()] = file.checksum

    def hashed_serialize(tensors: Mapping[str, Any], filename: Any, *rest: Any, **settings: Any) -> None:
        serialize(tensors, filename, *rest, **settings)
        found[Path(filename).resolve()] = _of_tensors(Path(filename), tensors)

    with (
        mock.patch.object(torch, "save", hashed_save),
        mock.patch.object(safetensors.torch, "serialize_file", hashed_serialize),
    ):
        try:
            yield found
        finally:
            _taken.reset(before)


def note(path: Path, checksum: Checksum) -> None:
    """Tell whoever takes checksums ([`hashing`]) that of a file that was written through a [`HashedFile`]."""
    taken = _taken.get()
    if taken is not None:
        taken[path.resolve()] = checksum


def _of_tensors(path: Path, tensors: Mapping[str, Any]) -> Checksum:
    """Checksum of a safetensors file: of its header as it was written, and of the tensors as they are in memory."""
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(struct.unpack("<Q", start)[0])
    hasher, size = hashlib.sha256(start + header), len(start) + len(header)
    places = {name: place["data_offsets"] for name, place in json.loads(header).items() if name != "__metadata__"}
    for name in sorted(places, key=lambda one: places[one]):
        tensor = tensors[name]
        if tensor.data_len:
            hasher.update((ctypes.c_char * tensor.data_len).from_address(tensor.data_ptr))
        size += tensor.data_len
    return Checksum(size, hasher.hexdigest())
