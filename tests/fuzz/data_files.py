"""Data files: rows of every shape in every format, damaged, compressed, in other encodings, alone and in folders."""

from __future__ import annotations

import bz2
import copy
import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

import tiny

from . import values
from .materials import MAPPINGS, Materials
from .parts import Input, reading_command, settings_of, write_recipe

Rows = list[Any]

SETTINGS: tuple[dict[str, Any], ...] = (
    {"bad_rows": "skip"}, {"bad_rows": "skip", "bad_rows_max": 0.5}, {"as_conversations": True},
    {"train_on_turn": "all"},
    {"column_mapping": {"question": "prompt", "answer": "completion"}}, {"column_mapping": {"prompt": "completion"}},
    {"dataset_train_split": "test"}, {"dataset_train_split": "train[:50%]"}, {"dataset_config": "other"},
    {"max_rows": 2},
    {"max_length": 16}, {"held_out_fraction": 0.4}, {"truncation_mode": "keep_end"}, {"dataset_num_proc": 2},
)  # fmt: skip
"""Settings that affect how data is read, one of which may be set for a file."""


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a data file, or a folder of some, and a recipe that names it."""
    kind = rng.choice(list(materials.rows))
    what, rows = _rows(rng, materials, kind)
    name, how = _write(rng, folder, rows)
    is_in_order = what == IN_ORDER and how in HARMLESS and _fits(kind, folder / name)
    changes: dict[str, Any] = {"dataset_name": name}
    if rng.random() < 0.1:
        changes = {"held_out_name": name}
    if kind in MAPPINGS and (is_in_order or rng.random() < 0.8):
        changes |= {"column_mapping": MAPPINGS[kind]}
    if rng.random() < 0.3:
        changes |= rng.choice(SETTINGS)
    recipe = write_recipe(folder, settings_of(materials, **changes))
    shown = {key: value for key, value in changes.items() if key != "dataset_name"}
    command = reading_command(rng)
    said = f"{name}: rows of {kind}, {what}; {how}" + (f"; {shown}" if shown else "")
    known = {"dataset_name": name} | ({"column_mapping": MAPPINGS[kind]} if kind in MAPPINGS else {})
    is_sure = is_in_order and command == "start" and changes == known
    digest = materials.digest(kind, len(rows)) if is_sure else None
    return Input([command, recipe], said, digest=digest)


def _fits(kind: str, path: Path) -> bool:
    """Return whether a file can hold these rows unchanged: a table of text has text cells, and JSON may have any shape."""
    if path.is_dir() or path.suffix == ".zip":  # the folder has two files
        return False
    endings = [ending.lower() for ending in path.suffixes]
    if ".json" in endings:
        return path.read_bytes().startswith(b"[")
    return kind in ("prompt-completion", "question-answer") or not {".csv", ".tsv"} & set(endings)


# ---- rows ------------------------------------------------------------------------------------------------------------


IN_ORDER = "in order"

HARMLESS = ("as it is", "as it is, compressed")
"""Ways of writing rows with which they have to be read."""


def _rows(rng: Random, materials: Materials, kind: tiny.SFTKind) -> tuple[str, Rows]:
    """Return a description of what is odd about rows of a kind, and the rows."""
    rows = copy.deepcopy(materials.rows[kind][: rng.choice([1, 3, 8])])
    if rng.random() < 0.2:
        return IN_ORDER, rows
    if rng.random() < 0.4:
        name, change = rng.choice(SHAPES)
        return f"with {name}", change(rng, rows)
    times = rng.choice([1, 1, 2, 5])
    changed = values.changed(rng, rows, times)
    return f"with {times} changes", changed if isinstance(changed, list) else [changed]


def _each(change: Callable[[Random, dict[str, Any]], Any]) -> Callable[[Random, Rows], Rows]:
    """Change every row, or only the last one."""

    def apply(rng: Random, rows: Rows) -> Rows:
        if rng.random() < 0.5:
            return [change(rng, row) for row in rows]
        return [*rows[:-1], change(rng, rows[-1])]

    return apply


def _in_messages(change: Callable[[Random, dict[str, Any]], Any]) -> Callable[[Random, Rows], Rows]:
    """Change one message of rows that are conversations."""

    def apply(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who is it?"},
            {"role": "assistant", "content": "It is Ann."},
        ]
        at = rng.randrange(3)
        messages[at] = change(rng, messages[at])
        return {"messages": messages}

    return _each(apply)


def _nested(depth: int) -> Any:
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    return value


SHAPES: tuple[tuple[str, Callable[[Random, Rows], Rows]], ...] = (
    ("roles as lists", _in_messages(lambda rng, one: one | {"role": [one["role"]]})),
    ("odd roles", _in_messages(lambda rng, one: one | {"role": values.odd(rng)})),
    ("odd contents", _in_messages(lambda rng, one: one | {"content": values.odd(rng)})),
    ("contents in parts", _in_messages(lambda rng, one: one | {"content": [{"type": "text", "text": values.odd(rng)}]})),
    ("contents of another type", _in_messages(lambda rng, one: one | {"content": [{"type": "image", "image": "a.png"}]})),
    ("messages that are none", _in_messages(lambda rng, one: values.odd(rng))),
    ("odd tool calls", _in_messages(lambda rng, one: one | {"tool_calls": values.odd(rng)})),
    ("no messages", _each(lambda rng, row: {"messages": rng.choice([[], None, {}, "a", 1])})),
    ("a completion without a prompt", _each(lambda rng, row: {"completion": rng.choice(["a", [], None, 3])})),
    ("a prompt without a completion", _each(lambda rng, row: {"prompt": "a"})),
    ("prompt and completion of two kinds", _each(
        lambda rng, row: {"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})),
    ("odd prompts", _each(lambda rng, row: {"prompt": values.odd(rng), "completion": "a"})),
    ("odd completions", _each(lambda rng, row: {"prompt": "a", "completion": values.odd(rng)})),
    ("texts that are all dates", _each(
        lambda rng, row: {"prompt": f"2020-01-{rng.randrange(10, 28)}", "completion": "1999-12-31"})),
    ("texts that are all times", _each(lambda rng, row: {"prompt": "2020-01-01T00:00:00Z", "completion": "12:30:00"})),
    ("texts that are all numbers", _each(lambda rng, row: {"prompt": "12", "completion": "1e5"})),
    ("odd chat_template_kwargs", _each(lambda rng, row: row | {"chat_template_kwargs": values.odd(rng)})),
    ("odd tools", _each(lambda rng, row: row | {"tools": values.odd(rng)})),
    ("odd further columns", _each(lambda rng, row: row | {rng.choice(values.TEXTS): values.odd(rng)})),
    ("columns of the package's own names", _each(lambda rng, row: row | {
        rng.choice(["key", "prompt_ids", "real_ids", "prompt_hash", "input_ids", "group", "input", "system", "text"]):
            values.odd(rng)})),
    ("deep nesting", _each(lambda rng, row: row | {"more": _nested(rng.choice([20, 100, 300]))})),
    ("prompts of deep nesting", _each(lambda rng, row: {"prompt": _nested(50), "completion": "a"})),
    ("rows that are none", lambda rng, rows: [*rows, values.odd(rng)]),
    ("no rows", lambda rng, rows: []),
    ("empty rows", lambda rng, rows: [{} for _ in rows]),
    ("the same row ten times", lambda rng, rows: rows[:1] * 10),
    ("other columns in every row", lambda rng, rows: [{f"a{number}": 1} for number in range(len(rows))]),
    ("a long text", _each(lambda rng, row: {"prompt": "word " * 20_000, "completion": "a"})),
    ("many columns", lambda rng, rows: [row | {f"column {number}": number for number in range(500)} for row in rows]),
)  # fmt: skip


# ---- files -----------------------------------------------------------------------------------------------------------


def _write(rng: Random, folder: Path, rows: Rows) -> tuple[str, str]:
    """Write rows as a file or a folder; return its name, and how it is written."""
    form = rng.choices(list(FORMATS), [weight for weight, _ in FORMATS.values()])[0]
    if form.startswith("folder"):
        return FORMATS[form][1](rng, folder, rows)
    is_odd = form in ("parquet", "arrow") and rng.random() < 0.3
    content = FORMATS[form][1](rng, rng.choice(ODD_TABLES)() if is_odd else rows)
    how = "an odd table" if is_odd else "as it is"
    luck = rng.random()
    is_text = form in ("jsonl", "json", "csv", "tsv")
    if luck < 0.22:
        how, content = values.damaged(rng, content)
    elif luck < 0.32 and is_text:
        letters = content.decode("utf-8", "replace").rpartition("e")
        how, content = values.encoded(rng, letters[0] + "é" + letters[2])
    elif luck < 0.42 and is_text:
        name, change = rng.choice(OF_TEXT)
        how, content = name, change(content)
    name = f"rows.{form}"
    luck = rng.random()
    if luck < 0.15:
        name = rng.choice(NAMES).replace("FORM", form)
    elif luck < 0.2:
        name = f"rows{rng.choice(OTHER_ENDINGS)}"
        how += ", by another format's name"
    if rng.random() < 0.15:
        extension, compress = rng.choice(list(COMPRESSIONS.items()))
        content, name = compress(content), name + extension
        how += ", compressed" if is_text else ", compressed once more"  # Parquet and Arrow have their own compression
        if rng.random() < 0.5:
            more, content = values.damaged(rng, content)
            how += f", then {more}"
    (folder / name).write_bytes(content)
    return name, how


NAMES = (
    "rows (1).FORM", "rows [1].FORM", "[rows].FORM", "rows*.FORM", "rows?.FORM", "100%.FORM", "%20rows.FORM", "a b.FORM",
    "é.FORM", "日本.FORM", "rows.v2.FORM", "rows.tar.FORM", "-rows.FORM", "--rows.FORM", "a:b.FORM", "rows::a.FORM",
    "a,b.FORM",
    "{a}.FORM", "~rows.FORM", "#rows.FORM", "a\nb.FORM", "rows@1.FORM", "$HOME.FORM", "'rows'.FORM", '"rows".FORM',
    "rows!.FORM",
    "a=b.FORM", "a;b.FORM", "a&b.FORM", "a\\b.FORM", "train.FORM", "test.FORM", "data.test.FORM", ".rows.FORM", "rows..FORM",
    "**.FORM", "null.FORM", "1.FORM", "1e5.FORM", "2020-01-01.FORM", "train[:50%].FORM", "e\u0301.FORM", "a\u202eb.FORM",
)  # fmt: skip
"""Possible file names, including those with a meaning elsewhere."""

OTHER_ENDINGS = (
    "", ".", ".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".ndjson", ".xlsx", ".pkl", ".npz", ".db",
    ".yaml",
    ".py", ".md", ".gz", ".jsonl.gz", ".zip", ".tar.gz", ".safetensors", ".JSON", ".feather", ".xml", ".html", ".tar",
)  # fmt: skip
"""File extensions that say nothing about the content, or something wrong."""


def _jsonl(rng: Random, rows: Rows) -> bytes:
    is_ascii = rng.random() < 0.5
    return values.as_utf8("".join(values.as_json(row, ensure_ascii=is_ascii) + "\n" for row in rows))


def _json(rng: Random, rows: Rows) -> bytes:
    of_dicts = all(isinstance(row, dict) for row in rows)
    shapes: list[Any] = [
        rows,
        rows,
        {"train": rows},
        {"data": rows},
        {"train": rows, "test": rows},
        {"a": {"b": rows}},
    ]
    if of_dicts and rows:
        shapes.append({name: [row.get(name) for row in rows] for name in rows[0]})  # columnar
        shapes.append(rows[0])
    return values.as_utf8(values.as_json(rng.choice(shapes), indent=rng.choice([None, 2])))


def _table(separator: str) -> Callable[[Random, Rows], bytes]:
    def write(rng: Random, rows: Rows) -> bytes:
        columns = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
        text = io.StringIO()
        writer = csv.writer(
            text, delimiter=rng.choice([separator] * 8 + [";"]), lineterminator=rng.choice(["\n", "\r\n"])
        )
        try:
            writer.writerow(columns)
            for row in rows:
                cells = [row.get(name) for name in columns] if isinstance(row, dict) else [row]
                writer.writerow([one if isinstance(one, str) else values.as_json(one) for one in cells])
        except csv.Error:  # the writer does not support NUL
            return values.as_utf8("prompt,completion\na\x00,b\n")
        return values.as_utf8(text.getvalue())

    return write


def _arrow_table(rows: Rows | pa.Table) -> pa.Table:
    """Convert rows to an Arrow table; values that don't fit one column's type become a column of another type."""
    if isinstance(rows, pa.Table):
        return rows
    rows = [row for row in rows if isinstance(row, dict)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in columns:
        cells = [row.get(name) for row in rows]
        try:
            arrays.append(pa.array(cells))
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
            arrays.append(pa.array([json.dumps(cell) for cell in cells]))
    return pa.table(arrays, names=[name.encode("utf-8", "replace").decode() for name in columns])


def _of_type(kind: pa.DataType, *cells: Any) -> Callable[[], pa.Table]:
    return lambda: pa.table({"prompt": pa.array(cells, kind), "completion": pa.array(["a"] * len(cells))})


def _described(**metadata: str) -> Callable[[], pa.Table]:
    return lambda: PLAIN_TABLE.replace_schema_metadata(metadata)


ODD_TABLES: tuple[Callable[[], pa.Table], ...] = (
    lambda: pa.table({}),
    lambda: pa.table({"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())}),
    lambda: pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]),
    lambda: pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["prompt", "completion", "completion"]),
    _of_type(pa.date32(), datetime.date(2020, 1, 1)),
    _of_type(pa.timestamp("ns", "UTC"), 1),
    _of_type(pa.duration("s"), 1),
    _of_type(pa.decimal128(10, 2), decimal.Decimal("1.5")),
    _of_type(pa.binary(), b"\xff\x00"),
    _of_type(pa.large_string(), "a", "b"),
    _of_type(pa.large_binary(), b"a"),
    _of_type(pa.string_view(), "a", "b"),
    _of_type(pa.dictionary(pa.int8(), pa.string()), "a", "b"),
    _of_type(pa.null(), None, None),
    _of_type(pa.int64(), 1, None),
    _of_type(pa.float16(), 1.5),
    _of_type(pa.bool_(), True),
    _of_type(pa.list_(pa.string()), ["a"], None),
    _of_type(pa.large_list(pa.string()), ["a"]),
    _of_type(pa.map_(pa.string(), pa.string()), [("a", "b")]),
    _of_type(pa.struct({"role": pa.string()}), {"role": "user"}),
    _of_type(pa.list_(pa.struct({"role": pa.string(), "content": pa.null()})), [{"role": "user", "content": None}]),
    _of_type(pa.time32("s"), 1),
    lambda: pa.table({"messages": pa.array([[{"role": "user", "content": b"a"}, {"role": "assistant", "content": b"b"}]])}),
    lambda: pa.table({"messages": pa.array([["a", "b"]])}),
    _described(huggingface="{"),
    _described(huggingface='{"info": {"features": 3}}'),
    _described(huggingface='{"info": {"features": {"prompt": {"dtype": "int8", "_type": "Value"}}}}'),
    _described(huggingface='{"info": {"features": {"prompt": {"_type": "Image"}, "completion": {"_type": "Audio"}}}}'),
    _described(pandas="{}"),
)  # fmt: skip


PLAIN_TABLE = pa.table({"prompt": ["a"], "completion": ["b"]})
"""A table that is written in place of one that Arrow can't write."""


def _parquet(rng: Random, rows: Rows | pa.Table) -> bytes:
    file = io.BytesIO()
    try:
        pq.write_table(_arrow_table(rows), file)
    except (pa.ArrowException, OverflowError):
        pq.write_table(PLAIN_TABLE, file)
    return file.getvalue()


def _arrow(rng: Random, rows: Rows | pa.Table) -> bytes:
    table, new = _arrow_table(rows), rng.choice([pa.ipc.new_stream, pa.ipc.new_file])
    try:
        return _written(table, new)
    except pa.ArrowException:  # nested too deeply for Arrow to write
        return _written(PLAIN_TABLE, new)


def _written(table: pa.Table, new: Callable[..., Any]) -> bytes:
    file = io.BytesIO()
    with new(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows", content)
        archive.writestr("more", content)
    return file.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zip": _zipped,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    ".lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
    ".GZ": lambda content: gzip.compress(content[: len(content) // 2]) + gzip.compress(content[len(content) // 2 :]),
}

OF_TEXT: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("without line ends", lambda content: content.replace(b"\n", b"")),
    ("lines that end as on old Macs", lambda content: content.replace(b"\n", b"\r")),
    ("with blank lines", lambda content: content.replace(b"\n", b"\n\n \n")),
    ("with a NUL in every line", lambda content: content.replace(b"\n", b"\x00\n")),
    ("with lines of another format", lambda content: content + b"<html>\n,,,\n{]\n"),
    ("with NaN for the first text", lambda content: content.replace(b'"', b"NaN ", 1)),
    ("with keys twice", lambda content: content.replace(b"{", b'{"prompt": 1, "prompt": "a", ', 1)),
    ("with a comma at every end", lambda content: content.replace(b"\n", b",\n")),
    ("with an open quote", lambda content: content + b'"'),
    ("behind a mark of UTF-16", lambda content: b"\xff\xfe" + content),
    ("behind two marks of UTF-8", lambda content: b"\xef\xbb\xbf" * 2 + content),
    ("a pointer of Git LFS", lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ("a page of HTML", lambda content: b"<!DOCTYPE html><html></html>"),
    ("one long line", lambda content: content.replace(b"\n", b" ") * 200),
    ("many brackets", lambda content: b"[" * 200_000),
    ("a lone surrogate, escaped", lambda content: content.replace(b'"', b'"\\ud800', 3)),
)


# ---- folders ---------------------------------------------------------------------------------------------------------


def _folder_of_files(rng: Random, folder: Path, rows: Rows) -> tuple[str, str]:
    """Write files of several splits and formats, with a README.md that may say how they are read."""
    inside = folder / "rows"
    names = rng.sample(
        ["train", "test", "validation", "data-00000-of-00002", "more", "train-1"], rng.choice([1, 2, 3])
    )
    said = []
    for name in names:
        form = rng.choice(["jsonl", "jsonl", "json", "csv", "parquet", "txt"])
        content = _jsonl(rng, rows) if form == "txt" else FORMATS[form][1](rng, rows)
        if rng.random() < 0.2:
            how, content = values.damaged(rng, content)
            said.append(f"{name}.{form} {how}")
        path = inside / rng.choice(["", "", "data"]) / f"{name}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if rng.random() < 0.6:
        card = rng.choice(CARDS)
        (inside / "README.md").write_bytes(card)
        said.append(f"README.md {card[:80]!r}")
    return "rows", f"files {', '.join(names)}; {'; '.join(said) or 'as they are'}"


CARDS = (
    b"", b"---\n---\n", b"---\nconfigs: 3\n---\n", b"---\nconfigs:\n- config_name: a\n---\n", b"\xff\xfe-\x00",
    b"---\n\tconfigs: [\n---",
    b"---\nconfigs:\n- config_name: default\n  data_files: '*.jsonl'\n---\n", b"---\nconfigs:\n- data_files: 3\n---\n",
    b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '../*'\n---\n",
    b"---\nconfigs:\n- config_name: default\n  data_files: 'nothing-*'\n---\n", b"---\nconfigs: [null]\n---\n",
    b"---\nconfigs:\n- config_name: a\n  data_files: '*.jsonl'\n- config_name: b\n  data_files: '*.csv'\n---\n",
    b"---\nconfigs:\n- config_name: default\n  data_files: '*.csv'\n  sep: ''\n---\n",
    b"---\nconfigs:\n- config_name: default\n  data_files: '*.json'\n  field: nothing\n---\n",
    b"---\ndataset_info: 3\n---\n", b"---\ndataset_info:\n  features: 3\n  splits: a\n---\n", b"---\n- a\n---\n",
    b"---\n3\n---\n",
    b"---\ndataset_info:\n  features:\n  - name: prompt\n    dtype: int8\n---\n", b"---\na: &a [*a]\n---\n",
    b"---\n" + b"[" * 5000,
)  # fmt: skip


def _folder_of_datasets(rng: Random, folder: Path, rows: Rows) -> tuple[str, str]:
    """Return a folder written by `Dataset.save_to_disk`, with one file damaged."""
    inside = folder / "saved"
    table = rng.choice(ODD_TABLES)() if rng.random() < 0.3 else _arrow_table(rows)
    try:
        dataset = datasets.Dataset(table)
    except Exception:  # a table for which `datasets` has no features
        dataset = datasets.Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", "d"]})
    if rng.random() < 0.3:
        datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(inside)
    else:
        dataset.save_to_disk(inside)
    path = rng.choice(sorted(path for path in inside.rglob("*") if path.is_file()))
    if path.suffix == ".json" and rng.random() < 0.7:
        changed = values.changed(rng, json.loads(path.read_text(encoding="utf-8")), rng.choice([1, 1, 3]))
        how = "other JSON"
        path.write_bytes(values.as_utf8(values.as_json(changed)))
    else:
        how, content = values.damaged(rng, path.read_bytes())
        path.write_bytes(content)
    return "saved", f"{path.relative_to(inside)} {how}"


FORMATS: dict[str, tuple[int, Callable[..., Any]]] = {
    "jsonl": (30, _jsonl),
    "json": (14, _json),
    "csv": (12, _table(",")),
    "tsv": (4, _table("\t")),
    "parquet": (12, _parquet),
    "arrow": (8, _arrow),
    "folder of files": (12, _folder_of_files),
    "folder of datasets": (8, _folder_of_datasets),
}
"""Ways of writing rows: their weights, and the functions that write them."""
