"""Store generations as tokens, in atomically written shards with a manifest that identifies their dataset and model.

A store is a folder. `generations.json` is written first and names the dataset, model, template and sampling. Shards are
Parquet files, written to a temporary file and renamed, so an interrupt costs at most the shards in progress. Their checksums
are in `checksums.jsonl`. A store made with a different dataset, model, template or sampling is refused instead of being
trained on, and so is a shard that has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..counts import agreeing
from ..errors import GenerationsError
from ..files import Checksum, parse_json, write_atomically, write_json
from ..json_lines import DamagedLineError, JsonLines
from .engine import Response
from .parts import GenerationPart

STORE_MANIFEST = "generations.json"
SHARD_CHECKSUMS = "checksums.jsonl"
FORMAT = 2
"""Format version of stores. Format 1 (version 0.1.0) has no checksums."""

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "sample": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "finish_reason": pa.string(),
        "length": pa.int32(),
    }
)

SPLIT = b"split"
"""Key of a shard's metadata with the number of responses that were sampled in halves of their micro-batch."""


@dataclass(frozen=True)
class Manifest:
    """The identity of a store's generations. Stores with equal manifests hold the same work.

    Attributes:
        dataset: digest of the rows' keys.
        template: digest of the tokenizer and its template.
        model: digest of the opponent's weights.
        engine: name of the engine.
        iteration: 0-based.
        sampling: settings of sampling.
        num_rows: number of prompts.
        num_shards: number of files in a complete store.
        opponent: stage of the run whose model answers; None outside a run, or if an earlier version wrote it.
        lr_scale: factor on the learning rate of the iteration that is trained on them; None as for `opponent`.
        engine_version: version of the software that generated them first; None if an earlier version wrote the manifest.
        repeats: whether the engine would generate the same responses again (see [`Engine`]); None as for `engine_version`.
        unquantised_base: whether the engine generated with the unquantised base of a model whose digest is that of the
            quantised one (`vllm_unquantised_base`); None: with the model itself.
        served: for servers that exist already, how far their log-probs were from those of the run's models; otherwise None.
        split: responses that were sampled in halves of their micro-batch, once generation has ended; None if there are none.
    """

    dataset: str
    template: str
    model: str
    engine: str
    iteration: int
    sampling: dict[str, Any]
    num_rows: int
    num_shards: int
    opponent: str | None = None
    lr_scale: float | None = None
    engine_version: str | None = None
    repeats: bool | None = None
    unquantised_base: bool | None = None
    served: dict[str, Any] | None = None
    split: int | None = None


NOTED = ("opponent", "lr_scale", "engine_version", "repeats", "unquantised_base", "served", "split")
"""Fields of a [`Manifest`] that are not part of its identity, and may be missing: what the run had decided when the store
was begun, what generated, and how."""


_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class GenerationStore:
    """The generations of one iteration, in a folder.

    Args:
        folder: directory of the store; it need not exist yet.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._checksums = JsonLines(self.folder / SHARD_CHECKSUMS, _wrong_in_checksum)

    def open(self, manifest: Manifest) -> None:
        """Start the store, or continue one with the same manifest.

        Raises:
            GenerationsError: if the folder holds generations with a different manifest.
        """
        self.adopt({name: value for name, value in asdict(manifest).items() if name not in NOTED or value is not None})

    def adopt(self, manifest: Mapping[str, Any]) -> None:
        """Start the store with a manifest as [`GenerationStore.manifest`] returns it, or continue one with the same.

        Raises:
            GenerationsError: if the folder holds generations with a different manifest.
        """
        if (self.folder / STORE_MANIFEST).exists():
            self.check({name: value for name, value in manifest.items() if name not in (*NOTED, "format")})
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STORE_MANIFEST, {**manifest, "format": FORMAT})

    def check(self, expected: Mapping[str, Any]) -> None:
        """Raise if the generations have a different manifest, naming the first field that differs.

        Args:
            expected: fields of a [`Manifest`].

        Raises:
            GenerationsError: if a field differs; the message gives the value found and the one expected.
        """
        found = self.manifest()
        for name, value in expected.items():
            if found.get(name) != value:
                raise GenerationsError(
                    f"The generations in {self.folder} were made with another {name}: found {found.get(name)!r}, "
                    f"expected {value!r}. Use the {name} that they were made with, or generate into another folder."
                )

    def manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            GenerationsError: if the folder is not a store.
        """
        try:
            found = parse_json((self.folder / STORE_MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GenerationsError(
                f"{self.folder} holds no generations ({STORE_MANIFEST}: {error}). Restore that file from a backup, "
                "or delete the folder and generate again."
            ) from error
        if (wrong := _wrong_in_manifest(found)) is not None:
            raise GenerationsError(
                f"{self.folder / STORE_MANIFEST} is not a manifest of generations ({wrong}). Restore it from a backup, or "
                "delete the folder and generate again."
            )
        return found

    def damage(self) -> GenerationsError | None:
        """Return why the manifest or the list of checksums can't be used; None if they can, or if there is no store.

        Raises:
            GenerationsError, OSError: if a file can't be read now (EIO, ESTALE, EACCES, ...), which is no damage.
        """
        if not os.path.lexists(self.folder / STORE_MANIFEST):
            return None
        try:
            self.checksums()
        except GenerationsError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, _NOT_THERE):
                raise
            return error
        return None

    def has_shard(self, number: int) -> bool:
        """Return whether a shard is done: it exists and has the recorded length."""
        return not self._lacks([number])

    def checksums(self) -> dict[str, Checksum] | None:
        """Return the shards' checksums by file name; None for a store of version 0.1.0, which has none.

        Raises:
            GenerationsError: if the file of checksums is damaged.
        """
        if self.manifest().get("format", 1) < FORMAT:
            return None
        try:
            return {found["file"]: Checksum(found["size"], found["sha256"]) for found in self._checksums.read()}
        except DamagedLineError as error:
            raise GenerationsError(
                f"{error}. Restore {error.path.name} from a backup, or delete it: then all shards are generated again."
            ) from error

    def lists(self) -> dict[str, Checksum]:
        """Return checksums of the manifest and of the checksum list, by file name; the list covers all shards."""
        paths = [self.folder / name for name in (STORE_MANIFEST, SHARD_CHECKSUMS)]
        return {path.name: Checksum.of(path) for path in paths if path.is_file()}

    def damaged_shards(self) -> list[Path]:
        """Return shards that are missing or don't match their checksums; none for a store without checksums."""
        known, paths = self.checksums(), map(self._shard, range(self.manifest()["num_shards"]))
        if known is None:
            return []
        return [path for path in paths if not path.is_file() or Checksum.of(path) != known.get(path.name)]

    def write_shard(self, number: int, responses: Iterable[tuple[str, int, Response]]) -> None:
        """Write a shard of (key, sample, response) atomically.

        Its metadata says how many responses were sampled in halves of their micro-batch, if any were.
        """
        responses = list(responses)
        rows = [(key, sample, made.ids, made.finish_reason, len(made.ids)) for key, sample, made in responses]
        table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)
        split = sum(made.is_split for _, _, made in responses)
        if split:
            table = table.replace_schema_metadata({SPLIT: str(split)})
        path = self._shard(number)
        checksum = write_atomically(path, lambda file: pq.write_table(table, file))
        self._checksums.append({"file": path.name, **asdict(checksum)})

    def copy_shard(self, number: int, source: GenerationStore) -> None:
        """Copy a shard from another store, byte by byte.

        Raises:
            GenerationsError: if the shard is damaged there.
        """
        content, path = source._content(number, source.checksums()), self._shard(number)
        checksum = write_atomically(path, lambda file: file.write(content))
        self._checksums.append({"file": path.name, **asdict(checksum)})

    def is_complete(self, part: GenerationPart | None = None) -> bool:
        """Return whether the store exists and no shard is missing, of a part or of all."""
        return (self.folder / STORE_MANIFEST).exists() and not self.missing_shards(part)

    def missing_shards(self, part: GenerationPart | None = None) -> list[int]:
        """Return the numbers of the shards that are not done, of a part or of all."""
        count = self.manifest()["num_shards"]
        return self._lacks(range(count) if part is None else part.shards(count))

    def _lacks(self, numbers: Iterable[int]) -> list[int]:
        known, lacking = self.checksums(), []
        for number in numbers:
            path = self._shard(number)
            checksum = None if known is None else known.get(path.name)
            is_done = path.exists() and (
                known is None or (checksum is not None and path.stat().st_size == checksum.size)
            )
            lacking += [] if is_done else [number]
        return lacking

    def table(self) -> pa.Table:
        """Return all generations, in the order of the shards, with the columns of `SCHEMA`.

        Raises:
            GenerationsError: if some are missing, or a shard is damaged.
        """
        shards = list(self.shards())
        return pa.concat_tables(shards) if shards else SCHEMA.empty_table()

    def shards(self) -> Iterator[pa.Table]:
        """Yield the generations of one shard after the other, with the columns of `SCHEMA`.

        Raises:
            GenerationsError: if some are missing, before the first shard is read; or a shard is damaged.
        """
        missing, total = self.missing_shards(), self.manifest()["num_shards"]
        if missing:
            raise GenerationsError(
                f"{self.folder} is not complete: {len(missing)} of {total} {agreeing(total, 'shard')} "
                f"{agreeing(len(missing), 'is', 'are')} missing or truncated (first {self._shard(missing[0]).name}). "
                "Run the generation again to finish it."
            )
        known = self.checksums()
        for number in range(total):
            yield self._read(number, known)

    def shard(self, number: int) -> pa.Table:
        """Return the generations of one shard.

        Raises:
            GenerationsError: if the shard is missing or damaged.
        """
        return self._read(number, self.checksums())

    def split_responses(self) -> int:
        """Return the number of responses that were sampled in halves of their micro-batch, because memory ran out."""
        paths = map(self._shard, range(self.manifest()["num_shards"]))
        return sum(int((pq.read_schema(path).metadata or {}).get(SPLIT, 0)) for path in paths if path.is_file())

    def note_split(self) -> None:
        """Write to the manifest how many responses were sampled in halves of their micro-batch, as the shards say."""
        manifest, split = self.manifest(), self.split_responses()
        noted = {name: value for name, value in manifest.items() if name != "split"} | (
            {"split": split} if split else {}
        )
        if noted != manifest:
            write_json(self.folder / STORE_MANIFEST, noted)

    def _read(self, number: int, known: Mapping[str, Checksum] | None) -> pa.Table:
        content = self._content(number, known)
        try:
            return pq.read_table(pa.BufferReader(content), schema=SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(number, error) from error

    def _content(self, number: int, known: Mapping[str, Checksum] | None) -> bytes:
        path = self._shard(number)
        try:
            content = path.read_bytes()
            if known is not None and Checksum.of_bytes(content) != known.get(path.name):
                raise OSError("its content does not match its checksum")
            return content
        except OSError as error:
            raise self._damaged(number, error) from error

    def _damaged(self, number: int, error: Exception) -> GenerationsError:
        return GenerationsError(
            f"{self._shard(number)} is damaged ({error}). Delete it and generate again: only this shard is generated again."
        )

    def kept(self, number: int) -> Path:
        """Return the path of the file that keeps a shard's finished responses until the shard is complete."""
        return self.folder / f"shard-{number:05d}.jsonl"

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.parquet"


def _wrong_in_manifest(found: Any) -> str | None:
    """Return what is missing in a manifest or has no possible value, or None."""
    if not isinstance(found, dict):
        return "not a JSON object"
    kept = {"format": 1, **found}
    kinds = {"dataset": str, "template": str, "model": str, "engine": str, "sampling": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(kept.get(name), kind)]
    most = {"iteration": 2**31, "num_rows": 2**63, "num_shards": 2**31, "format": 2**31}
    wrong += [name for name in most if type(kept.get(name)) is not int or not 0 <= kept[name] < most[name]]
    return f"`{wrong[0]}` is {found.get(wrong[0])!r:.60}" if wrong else None


def _wrong_in_checksum(found: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a shard's checksum, or None."""
    kinds = {"file": str, "size": int, "sha256": str}
    wrong = next((name for name, kind in kinds.items() if not isinstance(found.get(name), kind)), None)
    return wrong and f"`{wrong}` is {found.get(wrong)!r}"
