"""Run directories with one file changed: the journal, a manifest, or a file with rows or weights."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import values
from .materials import Materials
from .parts import Input, put

COMMANDS = {
    "run": 2,
    "generate": 5,
    "train": 3,
    "evaluate": 4,
    "start": 3,
    "baseline": 1,
    "card": 6,
    "report": 2,
    "plan": 1,
    "push": 2,
}
"""Commands that open a run, with their weights: the slowest are rare."""

EVERY_FIELD = (
    "time",
    "seconds",
    "nll",
    "held_out",
    "decision",
    "best",
    "opponent",
    "lr_scale",
    "steps",
    "pairs",
    "objective",
    "remarks",
    "notes",
)


def _a_run(rng: Random, folder: Path, materials: Materials) -> Path:
    """Copy a run, with its recipe, model and data, into the folder of an input."""
    known = materials.played if rng.random() < 0.6 else materials.earlier
    shutil.copytree(rng.choice(known), folder, symlinks=True, dirs_exist_ok=True)
    return folder / "run"


def _command(rng: Random) -> list[str]:
    command = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
    source = "recipe.yaml" if command not in ("card", "report", "push") and rng.random() < 0.3 else "run"
    return [command, source]


def _name(path: Path, run: Path) -> str:
    """Return a file's name, and which run it belongs to."""
    return f"{path.relative_to(run.parent)} of a run"


# ---- journals --------------------------------------------------------------------------------------------------------


def make_journal(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a run whose journal has a line that is damaged, of another shape, or of another run."""
    run = _a_run(rng, folder, materials)
    path = run / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = rng.randrange(len(lines))
    entry = json.loads(lines[at])
    match rng.randrange(8):
        case 0 | 1:
            what, lines[at] = values.damaged(rng, lines[at])
        case 2 | 3 | 4:
            lines[at] = values.as_utf8(values.as_json(values.changed(rng, entry, rng.choice([1, 1, 2])))) + b"\n"
            what = f"is {lines[at][:150]!r}"
        case 5:
            entry |= {rng.choice([*entry, *EVERY_FIELD]): values.odd(rng)}
            lines[at] = values.as_utf8(values.as_json(entry)) + b"\n"
            what = f"is {lines[at][:150]!r}"
        case 6:
            what, change = rng.choice(OF_LINES)
            lines = change(lines, at)
        case _:
            other = rng.choice([*materials.played, *materials.earlier]) / "run" / "journal.jsonl"
            theirs = other.read_bytes().splitlines(keepends=True)
            lines[at] = rng.choice(theirs)
            what = f"is of {other.parents[1].name}"
    path.write_bytes(b"".join(lines))
    if rng.random() < 0.05:
        path.unlink()
        what = "is gone"
    return Input(_command(rng), f"journal, line {at + 1} {what}")


Lines = list[bytes]


def _line(change: Callable[[bytes], bytes]) -> Callable[[Lines, int], Lines]:
    """Change one line."""
    return lambda lines, at: [*lines[:at], change(lines[at]), *lines[at + 1 :]]


def _replaced(old: bytes, new: bytes) -> Callable[[Lines, int], Lines]:
    return _line(lambda line: line.replace(old, new))


OF_LINES: tuple[tuple[str, Callable[[Lines, int], Lines]], ...] = (
    ("left out", lambda lines, at: lines[:at] + lines[at + 1 :]),
    ("twice", lambda lines, at: lines[: at + 1] + lines[at:]),
    ("first", lambda lines, at: [lines[at], *lines]),
    ("last", lambda lines, at: [*lines[:at], *lines[at + 1 :], lines[at]]),
    ("behind the end", lambda lines, at: lines[:at]),
    ("without its end", _line(bytes.rstrip)),
    ("empty", _line(lambda line: b"\n")),
    ("with an old end", _replaced(b"\n", b"\r\n")),
    ("behind a mark of UTF-8", _line(lambda line: b"\xef\xbb\xbf" + line)),
    ("with NaN", _replaced(b'"seconds": ', b'"seconds": NaN, "a": ')),
    ("of another stage", _replaced(b"iteration-0", b"iteration-7")),
    ("of a stage that is none", _replaced(b"iteration-0", b"../other")),
    ("of another arm", _replaced(b'"iteration-0', b'"baseline/a/iteration-0')),
    ("in UTF-16", _line(lambda line: line.decode().encode("utf-16"))),
    ("a number", _line(lambda line: b"3\n")),
    ("a list", _line(lambda line: b"[]\n")),
    ("null", _line(lambda line: b"null\n")),
    ("an empty mapping", _line(lambda line: b"{}\n")),
    ("of a phase that is unknown", _line(lambda line: b'{"phase": "a", "stage": "b"}\n')),
    ("deep", _line(lambda line: b"[" * 100_000 + b"\n")),
)


# ---- manifests -------------------------------------------------------------------------------------------------------

TEXT = {".json", ".jsonl", ".yaml", ".jinja", ".md", ".txt", ".lock"}


def make_manifest(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a run with a JSON or text file that is damaged, of another shape, or of another file."""
    run = _a_run(rng, folder, materials)
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in files if path.suffix in TEXT and path.name not in ("journal.jsonl", "table.txt")]
    path = rng.choices(files, [3 if path.suffix == ".json" else 1 for path in files])[0]
    content = path.read_bytes()
    luck = rng.random()
    if path.suffix == ".json" and luck < 0.5:
        value = values.changed(rng, json.loads(content), rng.choice([1, 1, 2, 4]))
        what, content = "changed", values.as_utf8(values.as_json(value, indent=rng.choice([None, 2])))
    elif luck < 0.6:
        content = values.as_utf8(values.as_json(values.odd(rng)))
        what = f"is {content[:50]!r}"
    elif luck < 0.7:
        other = rng.choice([one for one in files if one.suffix == path.suffix])
        what, content = f"is {_name(other, run)}", other.read_bytes()
    else:
        what, content = values.damaged(rng, content)
    what += put(rng, path, content)
    return Input(_command(rng), f"{_name(path, run)} {what}")


# ---- shards ----------------------------------------------------------------------------------------------------------

BINARY = {".parquet", ".arrow", ".safetensors", ".pt", ".pth", ".bin"}


def make_shard(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a run with a file of rows, weights or state that is damaged, or of another schema."""
    run = _a_run(rng, folder, materials)
    files = sorted(path for path in run.rglob("*") if path.suffix in BINARY and path.is_file())
    path = rng.choices(files, [4 if path.suffix == ".parquet" else 1 for path in files])[0]
    content = path.read_bytes()
    if path.suffix == ".parquet" and rng.random() < 0.5:
        what, change = rng.choice(SCHEMAS)
        file = io.BytesIO()
        pq.write_table(change(pq.read_table(path)), file)
        content = file.getvalue()
    elif rng.random() < 0.15:
        other = rng.choice(files)
        what, content = f"is {_name(other, run)}", other.read_bytes()
    else:
        what, content = values.damaged(rng, content)
    what += put(rng, path, content)
    return Input(_command(rng), f"{_name(path, run)} {what}")


def _with(name: str, make: Callable[[int], Any]) -> Callable[[pa.Table], pa.Table]:
    """Return a table with other values in one column."""

    def change(table: pa.Table) -> pa.Table:
        column = pa.array([make(row) for row in range(len(table))])
        if name not in table.column_names:
            return table.append_column(name, column)
        return table.set_column(table.column_names.index(name), name, column)

    return change


SCHEMAS: tuple[tuple[str, Callable[[pa.Table], pa.Table]], ...] = (
    ("without columns", lambda table: table.select([])),
    ("without rows", lambda table: table.slice(0, 0)),
    ("without its first row", lambda table: table.slice(1)),
    ("with its rows twice", lambda table: pa.concat_tables([table, table])),
    ("without its first column", lambda table: table.select(table.column_names[1:])),
    ("without its last column", lambda table: table.select(table.column_names[:-1])),
    ("with other names", lambda table: table.rename_columns([f"a{at}" for at in range(table.num_columns)])),
    ("with columns in another order", lambda table: table.select(table.column_names[::-1])),
    ("with keys that are unknown", _with("key", str)),
    ("with keys that are numbers", _with("key", int)),
    ("with keys that are null", _with("key", lambda row: None)),
    ("with one key for all", _with("key", lambda row: "a")),
    ("with tokens that are texts", _with("ids", lambda row: "a")),
    ("with tokens that are null", _with("ids", lambda row: None)),
    ("with tokens beyond the vocabulary", _with("ids", lambda row: [10**6])),
    ("with tokens below 0", _with("ids", lambda row: [-1])),
    ("with tokens that are fractions", _with("ids", lambda row: [0.5])),
    ("with no tokens", _with("ids", lambda row: list[int]())),
    ("with samples that are unknown", _with("sample", lambda row: 99)),
    ("with samples that are texts", _with("sample", lambda row: "a")),
    ("with samples that are null", _with("sample", lambda row: None)),
    ("with a reason that is unknown", _with("finish_reason", lambda row: "a")),
    ("with a reason that is null", _with("finish_reason", lambda row: None)),
    ("with a further column", _with("more", lambda row: row)),
)
