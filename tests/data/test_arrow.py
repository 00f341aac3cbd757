"""Rows are read and saved through memory maps of their files that are opened and closed as needed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_from_disk

import tiny
from messages import names, refused
from spin_trl.data.arrow import load_saved_rows, remapped, rows_of, save_rows
from spin_trl.data.held_out import split_held_out
from spin_trl.data.load import load_rows
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError, noted


def test_rows_are_saved_in_stretches_as_save_to_disk_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, order and identity are the same; each contiguous range selected from the data gets its own file."""
    monkeypatch.setattr("spin_trl.data.arrow.ROWS_PER_SHARD", 10)
    tiny.write_jsonl(tmp_path / "data.jsonl", tiny.sft(50))
    rows = prepare(load_rows(str(tmp_path / "data.jsonl")), PairTemplate(tiny.tokenizer()))
    for name, part in zip(("train", "held-out"), split_held_out(rows, 0.2, 1000), strict=True):
        save_rows(part, tmp_path / name)
        part.save_to_disk(tmp_path / f"{name}-whole")
        found, expected = load_from_disk(tmp_path / name), load_from_disk(tmp_path / f"{name}-whole")
        assert found.to_list() == expected.to_list()
        assert (found._fingerprint, found.features) == (expected._fingerprint, expected.features)
        assert len(list((tmp_path / name).glob("*.arrow"))) == 5


def test_rows_come_one_after_the_other_whatever_the_batch() -> None:
    """Rows are read 1,000 at a time, in the selected order."""
    numbers = [*range(1_500), *range(1_499, 700, -1)]
    rows = Dataset.from_dict({"n": range(1_500), "text": [str(number) for number in range(1_500)]}).select(numbers)
    assert list(rows_of(rows)) == [{"n": number, "text": str(number)} for number in numbers]
    assert list(rows_of(rows.select([]))) == []


def test_only_rows_of_files_are_mapped_anew(tmp_path: Path) -> None:
    """Rows in memory, or with a user's function, are unchanged."""
    in_memory = tiny.sft(3)
    in_memory.save_to_disk(tmp_path / "saved")
    mapped = load_from_disk(tmp_path / "saved")
    transformed = mapped.with_transform(lambda batch: batch)
    assert remapped(in_memory) is in_memory
    assert remapped(transformed) is transformed
    anew = remapped(mapped)
    assert anew is not mapped
    assert anew.to_list() == mapped.to_list()


@pytest.mark.parametrize(("rows", "shards"), [(1, 1), (9, 1), (10, 1), (35, 3)])
def test_a_shard_is_a_stretch_of_the_data(
    rows: int, shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard holds as many whole ranges as fit, and at least one."""
    monkeypatch.setattr("spin_trl.data.arrow.ROWS_PER_SHARD", 10)
    save_rows(Dataset.from_dict({"n": range(rows)}), tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == shards
    assert load_from_disk(tmp_path)["n"][:] == list(range(rows))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "7", '{"_data_files": 3}', '{"features": 3}', "[" * 5000], ids=range(8)
)
def test_saved_rows_that_are_damaged_are_refused_by_their_folder(tmp_path: Path, name: str, content: str) -> None:
    """They are refused even if `datasets` can still read part of them."""
    save_rows(Dataset.from_dict({"a": [1, 2]}), tmp_path / "rows")
    (tmp_path / "rows" / name).write_text(content, encoding="utf-8")
    refusals: list[str] = []
    found = noted(refusals, lambda: load_saved_rows(tmp_path / "rows"))
    assert (found is not None and found["a"][:] == [1, 2]) or names(refusals[0], tmp_path / "rows")


@pytest.mark.parametrize("form", ["parquet", "arrow", "saved"])
def test_text_that_is_no_utf8_is_refused_with_its_file(tmp_path: Path, form: str) -> None:
    """Arrow accepts it; code that reads it later would fail without naming the file."""
    ends = pa.py_buffer(np.array([0, 2], dtype=np.int32).tobytes())
    text = pa.StringArray.from_buffers(1, ends, pa.py_buffer(b"\xc9A"))
    table = pa.table({"prompt": text, "completion": ["a"]})
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        Dataset(table).save_to_disk(path)
    with refused(DataError, path):
        load_rows(str(path))
