"""Make trained models savable, and take checksums of what torch and safetensors write, from memory."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast
from unittest import mock

import safetensors.torch
import torch

from ..errors import message_of
from ..files import Checksum, HashedFile, taking_checksums


def make_savable(model: Any) -> str | None:
    """Make a model's generation configuration one that transformers saves; return the objection if that fails.

    Many published models set a temperature or `top_p` but not `do_sample`. transformers loads that with a warning, but
    refuses to save it with other EOS ids, which would only show at the end of a training.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return None
    try:
        config.validate(strict=True)
    except ValueError:
        before, config.do_sample = config.do_sample, True
        try:
            config.validate(strict=True)
        except ValueError as error:
            config.do_sample = before
            return message_of(error)
    return None


@contextlib.contextmanager
def hashing() -> Iterator[dict[Path, Checksum]]:
    """Collect the checksums of all files written in the block, by path: those written by `torch.save` and safetensors in
    this process, and by [`files.write_atomically`] in this thread.

    safetensors writes directly from the tensors' memory and has no hook. So that memory is hashed, in the order given by the
    header of the new file, which is the only part of it that is read back.
    """
    save, serialize = torch.save, safetensors.torch.serialize_file

    def hashed_save(value: Any, place: Any, *rest: Any, **settings: Any) -> None:
        if not isinstance(place, str | os.PathLike):
            save(value, place, *rest, **settings)
            return
        with Path(place).open("wb") as raw, HashedFile(raw) as file:
            save(value, cast("BinaryIO", file), *rest, **settings)
        found[Path(place).resolve()] = file.checksum

    def hashed_serialize(tensors: dict[str, Any], filename: Any, *rest: Any, **settings: Any) -> None:
        serialize(tensors, filename, *rest, **settings)
        found[Path(filename).resolve()] = _of_tensors(Path(filename), tensors)

    with (
        taking_checksums() as found,
        mock.patch.object(torch, "save", hashed_save),
        mock.patch.object(safetensors.torch, "serialize_file", hashed_serialize),
    ):
        yield found


def _of_tensors(path: Path, tensors: Mapping[str, Any]) -> Checksum:
    """Return the checksum of a safetensors file, from its header as written and the tensors in memory."""
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
