"""What is noticed while preparing rows is reported once per dataset, before anything runs, and written to the journal."""

import re
from pathlib import Path

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.data import notes
from spin_trl.data.notes import NOTES, note_in_words
from spin_trl.data.prepare import encode_rows, prepare_and_count
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError
from spin_trl.play.prepare import prepare_data
from spin_trl.run.directory import RunDirectory
from spin_trl.run.run import Run


@pytest.mark.parametrize("note", NOTES)
def test_every_note_is_a_sentence(note: str) -> None:
    """It has the count, the dataset and the first row."""
    one = note_in_words(note, 1, 4, "train", 96)
    assert names(one, 1, "train", "row 4")
    assert one.endswith(".")
    assert "{" not in one.replace("{enable_thinking: false}", "")
    assert not re.search(r"\b(their|them|they|these)\b", one.split(":", 1)[1])
    assert names(note_in_words(note, 1200, 4, "held-out", 96), "1,200", "held-out", "row 4")


def lengths(template: PairTemplate, rows: Dataset) -> list[int]:
    return [len(row["prompt_ids"]) + len(row["real_ids"]) for row in prepare_and_count(rows, template).rows]


def test_answers_that_max_length_cuts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """An answer one token too long is truncated, one that just fits is not; a truncated row is still trained on."""
    template, rows = PairTemplate(tiny.tokenizer()), tiny.sft(8)
    sizes = lengths(template, rows)
    limit = max(sizes) - 1
    found = prepare_and_count(rows, template, max_length=limit)
    cut = [number for number, size in enumerate(sizes) if size > limit]
    assert 0 < len(cut) < 8
    assert found.notes == {notes.CUT: (len(cut), cut[0])}
    assert len(found.rows) == 8
    (told,) = (one for one in caplog.messages if "max_length" in one)
    assert names(told, len(cut), "train", f"row {cut[0]}", f"`max_length` ({limit})", "EOS")
    assert prepare_and_count(rows, template, max_length=max(sizes)).notes == {}


def test_rows_that_repeat_another_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Of six rows, two have the prompt and response of an earlier one. A prompt with a different response is new."""
    pairs = [
        ("Ann?", "Bob."),
        ("Bob?", "Ann."),
        ("Ann?", "Cleo."),
        ("Ann?", "Bob."),
        ("Cleo?", "Bob."),
        ("Ann?", "Bob."),
    ]
    rows = [{"prompt": prompt, "completion": f" {real}"} for prompt, real in pairs]
    template = PairTemplate(tiny.tokenizer())
    found = prepare_and_count(Dataset.from_list(rows), template)
    assert len(found.rows) == 6
    (remark,) = found.remarks
    assert names(remark, 2, "6 rows", "train", "row 3")
    assert remark in caplog.messages
    assert prepare_and_count(Dataset.from_list(rows[:3]), template).remarks == []
    numbered = encode_rows(Dataset.from_list(rows), template, numbers=[0, 5, 10, 15, 20, 25])
    assert numbered.repeated == [15, 25]


def test_an_answer_that_would_end_early_refuses_its_row() -> None:
    """The error has the row's number and the token."""
    rows = [{"prompt": "Ann?", "completion": " Bob."}, {"prompt": "Ann?", "completion": " Bob.<|im_end|> And Cleo."}]
    with refused(DataError, "Row 1", "'<|im_end|>'"):
        prepare_and_count(Dataset.from_list(rows), PairTemplate(tiny.tokenizer()))


def test_a_run_says_what_was_noticed_and_keeps_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It appears in the console, and in the journal's `prepare` entry."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    run = Run(
        directory=directory,
        args=SPINConfig(output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, max_length=40),
        play=SelfPlayConfig(held_out_fraction=0.2),
        model=str(tiny.save(tmp_path / "model")),
    )
    rows = tiny.sft(8).to_list()
    rows[3]["completion"] = " It is a boat." * 8
    prepare_data(run, Dataset.from_list(rows), None)
    assert run.done("prepare", "data")["notes"] == {notes.CUT: {"responses": 1, "first_row": 3}}
    assert sum(names(one, "row 3", "`max_length` (40)") for one in caplog.messages) == 1


def with_fields(**fields: object) -> Dataset:
    answer = {"role": "assistant", "content": "A boat."}
    return Dataset.from_list(
        [{"messages": [{"role": "user", "content": "Which?"}, {**answer, **fields}, *more]} for more in MORE]
    )


MORE: tuple[list[dict[str, str]], ...] = (
    [],
    [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "A car."}],
)


def test_fields_of_messages_that_the_template_makes_nothing_of_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """One sentence names them, with what they might be. Ids and empty fields are ignored."""
    rows = with_fields(loss=False, context="Boats.", id="7", annotations=[], refusal=None)
    found = prepare_and_count(rows, PairTemplate(tiny.tokenizer()))
    assert found.notes == {f"{notes.FIELD}{name}": (2, 0) for name in ("context", "loss")}
    (told,) = caplog.messages
    assert names(told, "train", "`context`", "`loss`", "`train`", "`weight`")
    assert not any(f"`{name}`" in told for name in ("id", "annotations", "refusal"))


def test_a_field_that_the_template_shows_is_not_named() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.CHATML.replace(
        "(message['content'] or '')", "message['content'] + message['name']|d"
    )
    user = {"role": "user", "content": "Which?", "name": "Ann", "mood": "glad"}
    rows = Dataset.from_list([{"messages": [user, {"role": "assistant", "content": "A boat."}]}])
    found = prepare_and_count(rows, PairTemplate(tokenizer))
    assert list(found.notes) == [f"{notes.FIELD}mood"]
    assert "Which?Ann" in tokenizer.decode(found.rows[0]["prompt_ids"])


def test_turns_that_nothing_answers_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """They count if a conversation ends with them, but not after the first answer if that one is chosen."""
    row = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A boat."}]
    rows = Dataset.from_list([{"messages": row}, {"messages": [*row, {"role": "user", "content": "Why?"}]}])
    template = PairTemplate(tiny.tokenizer())
    for turn in ("last", "all"):
        assert prepare_and_count(rows, template, turn=turn).notes == {notes.UNANSWERED: (1, 1)}
    assert prepare_and_count(rows, template, turn="first").notes == {}
    assert len(caplog.messages) == 2
    assert all(names(one, 1, "train", "row 1", "turns") for one in caplog.messages)
