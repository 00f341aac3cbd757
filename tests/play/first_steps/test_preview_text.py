"""A printed preview marks added and truncated text, shortens long texts, and shows numbers that add up."""

import dataclasses
import io
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names
from spin_trl.data.prepare import BAD, KEPT, TOO_LONG, EncodedResponse, Prepared
from spin_trl.play.first_steps.pieces import Piece
from spin_trl.play.first_steps.preview import Counts, Preview, ShownResponse
from spin_trl.play.first_steps.preview_pairs import PreviewedPairs
from spin_trl.play.first_steps.preview_text import MOST_CHARACTERS, show_preview
from spin_trl.report import terminal

PROMPT = Piece("Which boat?", is_prompt=True)
END = Piece("<|im_end|>", is_prompt=False, is_added=True, is_special=True)


def shown_of(*pieces: Piece, outcome: str = KEPT, problem: str = "", **known: Any) -> ShownResponse:
    notes = known.pop("notes", [])
    return ShownResponse(EncodedResponse(4, outcome, problem, [1, 2], [3], notes), list(pieces), **known)


def found_of(*shown: ShownResponse, max_length: int | None = 96, **changes: Any) -> Preview:
    recipe: Any = SimpleNamespace(
        args=SimpleNamespace(max_length=max_length),
        model=SimpleNamespace(model_name_or_path="org/model"),
        data=SimpleNamespace(dataset_name="train[/b].jsonl"),
        play=SimpleNamespace(held_out_fraction=0.02, held_out_max=1000, retain_max=200),
    )
    known = Preview(
        recipe=recipe,
        total=12,
        counted=12,
        columns=["messages"],
        tokenizer=tiny.tokenizer(),
        ends=["<|im_end|>"],
        has_template=True,
        shown=list(shown),
        counts=Counts(Prepared(Dataset.from_dict({})), [], 0, (list(range(1, 11)), [5] * 10), 0),
        train=9,
        held_out=1,
        held_out_total=None,
        measured={},
        pairs=None,
        remarks=[],
        refusals=[],
    )
    return replace(known, **changes)


def printed(found: Preview, *, full: bool = False) -> str:
    file = io.StringIO()
    show_preview(terminal.console(file, 40), found, full=full)
    return file.getvalue()


def test_the_head_says_what_is_read_and_how() -> None:
    """A path in brackets is not taken for markup, and no line is wrapped."""
    head = printed(found_of()).splitlines()[:2]
    assert names(head[0], "train[/b].jsonl", "12 rows", "messages")
    assert names(head[1], "org/model", "`max_length` 96", "<|im_end|>")
    assert names(printed(found_of(counted=5)), "5 of 12 rows", "`--all`")
    assert names(printed(found_of(has_template=False)), "`as_conversations: true`")


def test_marks_stand_around_what_is_added_and_cut() -> None:
    text = printed(found_of(shown_of(PROMPT, Piece("The red ", False), Piece("one.", False, is_cut=True), END, cut=1)))
    assert "--- prompt\nWhich boat?\n--- real response\nThe red ✂one.✂⟦<|im_end|>⟧\n" in text
    assert names(text, "Row 4", "2 + 1 = 3 tokens", "1 truncated")


@pytest.mark.parametrize("text", ["[bold]a[/bold] [/INST] :boat:", "x" * 300], ids=["markup", "long-word"])
def test_text_of_a_row_stands_as_it_is(text: str) -> None:
    assert f"\n{text}\n" in printed(found_of(shown_of(Piece(text, is_prompt=True), END)))


def test_a_long_text_keeps_its_beginning_and_end() -> None:
    """At most this many characters are shown, with the number of omitted ones in the middle."""
    words = "".join(f"{number:05d} " for number in range(1000))
    found = found_of(shown_of(Piece(words[:3000], is_prompt=True), Piece(words[3000:], is_prompt=True), END))
    line = next(line for line in printed(found).splitlines() if line.startswith("00000"))
    left, out, right = re.split(r" \[\.\.\. ([\d,]+) characters.*?\] ", line)
    assert len(left) + len(right) == MOST_CHARACTERS
    assert int(out.replace(",", "")) == len(words) - MOST_CHARACTERS
    assert words.startswith(left)
    assert words.endswith(right)
    assert words in printed(found, full=True)


@pytest.mark.parametrize(
    ("outcome", "problem", "parts"),
    [(BAD, "`completion` is \x1bempty", ["`completion`", "␛empty"]), (TOO_LONG, "", ["96 tokens", "`max_length`"])],
    ids=["bad", "too-long"],
)
def test_a_row_that_is_left_out_says_why(outcome: str, problem: str, parts: list[str]) -> None:
    text = printed(found_of(shown_of(outcome=outcome, problem=problem)))
    assert names(text, "Row 4", *parts)
    assert "--- prompt" not in text


def test_notes_stand_below_their_row() -> None:
    text = printed(found_of(shown_of(PROMPT, END, notes=["normalised", "unused field: name"], is_traced=False)))
    assert names(text, "normalised; ")
    assert "unused field" not in text


def test_the_summary_counts_what_becomes_of_rows() -> None:
    counts = Counts(Prepared(Dataset.from_dict({})), [(3, "empty")], 1, (list(range(1, 11)), [5] * 10), 2)
    text = printed(found_of(counts=counts, remarks=["`source`\x1b is not used."]))
    assert names(text, "6 (median)", "10 (longest)", "10 of 12 rows", "2 of 10 responses", "20.0%")
    assert names(text, "`source`␛")
    assert "Truncated by" not in printed(found_of(counts=counts, max_length=None))
    assert "Lengths" not in printed(found_of(counts=None))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["1 row", "trained on: 9"]),
        ({"counted": 5}, ["2% of the prompts", "1,000"]),
        ({"held_out_total": 7, "held_out": 6}, ["6 rows", "7 rows", "trained on: 9"]),
        ({"held_out_total": 7, "held_out": 6, "counted": 5}, ["7 rows"]),
    ],
    ids=["all", "sample", "own-data", "sample-of-own-data"],
)
def test_what_is_held_out_is_told_as_far_as_it_is_known(changes: dict[str, Any], parts: list[str]) -> None:
    line = next(line for line in printed(found_of(**changes)).splitlines() if line.startswith("Held out: "))
    assert names(line, *parts)
    assert ("trained on" in line) == ("counted" not in changes)


def test_pairs_are_counted_as_far_as_they_were_checked() -> None:
    pairs = PreviewedPairs(total=3000, checked=2000, used=1990, shown=[], most=96, remarks=[], refusals=[])
    assert names(printed(found_of(pairs=pairs)), "1,990", "2,000", "3,000 rows", "`--all`")
    assert "`--all`" not in printed(found_of(pairs=dataclasses.replace(pairs, checked=3000)))
