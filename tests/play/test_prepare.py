"""A run's data is prepared once: rows left out are counted, and the data must be the same when the run is resumed."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from runs import build, entry
from spin_trl.data.keys import row_keys
from spin_trl.data.notes import CUT
from spin_trl.errors import DataError
from spin_trl.play.prepare import prepare_data
from spin_trl.report.write import gather
from spin_trl.run.run import LAUNCHED
from spin_trl.training.trainer import SPINTrainer


def prepare(model: Path, rows: Dataset, held_out: Dataset | None = None, **settings: Any) -> None:
    """Do what a run does before its first phase."""
    session = build(model, train_dataset=rows, eval_dataset=held_out, **settings)
    session._claim_directory()
    session._set_up()


def with_bad_rows(*bad: int, first: int = 0) -> Dataset:
    rows = tiny.sft(first + 15, "messages").to_list()[first:]
    for number in bad:
        rows[number]["messages"][-1]["content"] = ""
    return Dataset.from_list(rows)


def test_bad_rows_end_a_run_that_may_then_leave_them_out(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same directory is used, since nothing was written. Journal, log and report count them, including held-out ones."""
    with refused(DataError, "2 of 15 rows", "train", "row 3", "row 7", "`bad_rows: skip`"):
        prepare(llama_folder, with_bad_rows(3, 7), with_bad_rows(1, first=15))
    prepare(llama_folder, with_bad_rows(3, 7), with_bad_rows(1, first=15), bad_rows="skip", bad_rows_max=2)
    prepared = entry("prepare", "data")
    assert (prepared["train_rows"], prepared["held_out_rows"], prepared["bad_rows"]) == (13, 14, 3)
    for parts in (("2 of 15 rows", "train", "row 3", "row 7"), ("1 of 15 rows", "held-out", "row 1")):
        assert any(names(message, *parts, "`bad_rows: skip`") for message in caplog.messages)
    session = build(llama_folder)
    warnings = gather(session.directory)["warnings"]
    assert any(warning.startswith("2 of 15 rows of the train dataset are left out") for warning in warnings)
    assert any(warning.startswith("1 of 15 rows of the held-out dataset is left out") for warning in warnings)


def test_what_is_noticed_of_held_out_rows_is_counted_apart(llama_folder: Path) -> None:
    """Responses truncated by `max_length` are the second training row, and the first two held-out rows."""

    def rows(first: int, *long: int) -> Dataset:
        found = tiny.sft(first + 15).to_list()[first:]
        for number in long:
            found[number]["completion"] = " ".join(["a red boat"] * 30)
        return Dataset.from_list(found)

    prepare(llama_folder, rows(0, 1), rows(15, 0, 1))
    prepared = entry("prepare", "data")
    assert prepared["notes"] == {CUT: {"responses": 1, "first_row": 1}}
    assert prepared["held_out_notes"] == {CUT: {"responses": 2, "first_row": 0}}


def test_columns_are_named_when_a_run_begins_and_not_when_it_goes_on(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tiny.sft(15).add_column("category", ["boats"] * 15)
    prepare(llama_folder, rows)
    assert sum(names(message, "train", "`category`") for message in caplog.messages) == 1
    caplog.clear()
    prepare(llama_folder, rows)
    assert "category" not in caplog.text


def test_a_column_that_is_read_must_stay_as_it_is(llama_folder: Path) -> None:
    """This applies to a new run. One started by version 0.1.0 has not read the column, and resumes whatever it contains."""
    rows = tiny.sft(15, "messages").add_column("system", ["Be brief."] * 15)
    changed = rows.remove_columns("system").add_column("system", ["Be long."] * 15)
    prepare(llama_folder, rows)
    assert entry("prepare", "data")["dataset"] == row_keys(rows).digest
    with refused(DataError, "dataset:", row_keys(rows).digest, row_keys(changed).digest):
        prepare(llama_folder, changed)
    session = build(llama_folder, run_dir="earlier", train_dataset=changed)
    session.directory.path.mkdir()
    session.state.journal.append("prepare", "data", dataset=row_keys(rows, 1).digest, held_out_dataset=None)
    prepare_data(session.state, changed, None)


def test_a_launched_phase_leaves_the_comparison_to_the_process_that_launched_it(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launching process has just compared the data; hashing all of it again in every phase would be wasteful."""
    rows = tiny.sft(15)
    prepare(llama_folder, rows)

    def hashed(*_: object) -> None:
        raise AssertionError("the data is hashed again")

    monkeypatch.setattr("spin_trl.play.prepare.row_keys", hashed)
    with pytest.raises(AssertionError):
        prepare(llama_folder, rows)
    monkeypatch.setenv(LAUNCHED, "1")
    prepare(llama_folder, rows)


def test_a_tokenizer_that_makes_other_tokens_ends_a_run_that_has_rows(llama_folder: Path, tmp_path: Path) -> None:
    """The tokenizer may come from Python or the model's folder, and have another template, token or EOS; padding and
    length do not count.
    """
    rows = tiny.sft(15, "messages")
    prepare(llama_folder, rows)
    more = tiny.tokenizer()
    more.add_tokens(["boat"])
    for other in (more, tiny.tokenizer(eos_token=tiny.END_OF_TEXT), tiny.tokenizer(chat_template=tiny.CHATML + " ")):
        with refused(DataError, "run", "template:", entry("prepare", "data")["template"]):
            prepare(llama_folder, rows, processing_class=other)
    padded = tiny.tokenizer()
    padded.padding_side, padded.model_max_length = "left", 77
    prepare(llama_folder, rows, processing_class=padded)
    model = tiny.save(tmp_path / "model")
    prepare(model, rows, run_dir="another")
    more.save_pretrained(model)
    with refused(DataError, "another", "template:", entry("prepare", "data", Path("another"))["template"]):
        prepare(model, rows, run_dir="another")


def test_a_trainer_leaves_out_bad_rows_too(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The settings and the messages are the same."""
    args = build(llama_folder, bad_rows="skip").state.args
    rows = with_bad_rows(3).add_column("category", ["boats"] * 15)
    trainer = SPINTrainer(model=str(llama_folder), args=args, train_dataset=rows)
    assert len(trainer.train_dataset) == 14
    for parts in (("1 of 15 rows", "train", "row 3", "`bad_rows: skip`"), ("train", "`category`")):
        assert any(names(message, *parts) for message in caplog.messages)
    args.bad_rows = "refuse"
    with refused(DataError, "Row 3", "message 1", "`bad_rows: skip`"):
        SPINTrainer(model=str(llama_folder), args=args, train_dataset=rows)
