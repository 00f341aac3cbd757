"""A preview prepares rows as a run does, in pieces, and reports at the end what a run would refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.play.first_steps import preview as module
from spin_trl.play.first_steps.preview import Preview, preview
from spin_trl.play.first_steps.preview_text import _summary
from spin_trl.run.recipe import read_recipe

Look = Callable[..., Preview]
ROWS = list(tiny.sft(12).to_list())


@pytest.fixture
def look(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Return a function that previews rows with some settings."""
    monkeypatch.chdir(tmp_path)

    def preview_of(data: list[dict[str, Any]], settings: dict[str, Any] | None = None, **options: Any) -> Preview:
        Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
        known = {"model_name_or_path": str(llama_folder), "dataset_name": "train.jsonl", "as_conversations": True}
        known |= {"max_length": 96, "bf16": False, "use_cpu": True, "report_to": "none"} | (settings or {})
        Path("recipe.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")
        recipe = read_recipe("recipe.yaml")
        recipe.play.run_dir = "runs/none"
        recipe.load_as_set()
        return preview(recipe, **options)

    return preview_of


def test_pieces_are_all_of_the_tokens_in_order(look: Look) -> None:
    found = look(ROWS)
    for shown in found.shown:
        for is_prompt, ids in ((True, shown.encoded.prompt_ids), (False, shown.encoded.real_ids)):
            pieces = [piece for piece in shown.pieces if piece.is_prompt is is_prompt]
            assert "".join(piece.text for piece in pieces) == found.tokenizer.decode(ids)
        assert shown.is_traced


def test_what_no_piece_of_a_row_says_is_added(look: Look) -> None:
    shown = look(ROWS, rows=1).shown[0]
    own = [piece.text.strip() for piece in shown.pieces if not piece.is_added]
    assert own == [ROWS[0]["prompt"].strip(), ROWS[0]["completion"].strip()]
    special = {piece.text for piece in shown.pieces if piece.is_special}
    assert special == {"<|im_start|>", "<|im_end|>"}


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_as_many_tokens_are_cut_as_are_too_many(mode: str, look: Look) -> None:
    rows = [{"prompt": "Which?", "completion": "red boat " * 60}, *ROWS]
    found = look(rows, {"max_length": 40, "truncation_mode": mode}, rows=1)
    shown = found.shown[0]
    ids = [*shown.encoded.prompt_ids, *shown.encoded.real_ids]
    assert shown.cut == len(ids) - 40
    kept = ids[:40] if mode == "keep_start" else ids[-40:]
    assert "".join(piece.text for piece in shown.pieces if not piece.is_cut) == found.tokenizer.decode(kept)
    assert found.counts is not None
    assert found.counts.cut == 1


def test_rows_that_can_not_be_used_are_refused_at_the_end(look: Look) -> None:
    rows = [dict(row) for row in ROWS]
    rows[1]["completion"] = ""
    rows[2]["prompt"] = "red boat " * 90
    found = look(rows)
    assert [bool(shown.pieces) for shown in found.shown] == [True, False, False]
    assert found.shown[1].encoded.problem
    assert found.counts is not None
    assert [number for number, _ in found.counts.bad] == [1]
    assert found.counts.too_long == 1
    assert [len(lengths) for lengths in found.counts.lengths] == [10, 10]
    assert len(found.refusals) == 1
    assert names(found.refusals[0], "Row 1", "`bad_rows: skip`")
    assert not any("`bad_rows: skip`" in remark for remark in found.remarks)
    assert look(rows, {"bad_rows": "skip"}).refusals == []


def test_without_a_row_that_can_be_used_nothing_is_counted(look: Look) -> None:
    found = look([{"prompt": "Which?", "completion": ""}] * 3)
    assert found.counts is None
    assert found.refusals
    assert (found.train, found.held_out) == (0, 0)


def test_rows_are_divided_as_in_a_run(look: Look) -> None:
    found = look(ROWS, {"held_out_fraction": 0.25})
    assert found.train + found.held_out == 12
    assert found.held_out == 3
    assert found.held_out_total is None


def test_a_column_of_the_scorer_is_not_reported_as_unused(look: Look) -> None:
    Path("preview_scorer.py").write_text("def by_level(p, r, g, level): return level\n", encoding="utf-8")
    rows = [{**row, "level": 3, "source": "web"} for row in ROWS]
    for settings, unused in (({}, ["`level`", "`source`"]), ({"scorer": "preview_scorer:by_level"}, ["`source`"])):
        remarks = " ".join(look(rows, settings).remarks)
        assert [name for name in ("`level`", "`source`") if name in remarks] == unused


def test_the_test_set_and_the_retention_set_are_looked_at(look: Look) -> None:
    """Their rows are counted, and what a run would refuse in them is refused."""
    Path("more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:5]), encoding="utf-8")
    settings = {"test_name": "more.jsonl", "retain_name": "more.jsonl", "retain_max": 3}
    found = look(ROWS, settings)
    assert found.measured == {"test_name": 5, "retain_name": 5}
    assert not found.refusals
    assert any(names(line, 5, 3, "`retain_max`") for line in _summary(found))
    Path("more.jsonl").write_text(json.dumps({**ROWS[0], "completion": ""}) + "\n", encoding="utf-8")
    assert [names(one, "test", 0) for one in look(ROWS, {"test_name": "more.jsonl"}).refusals] == [True]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 1, 2]), ({"rows": 0}, []), ({"at": 10}, [10, 11]), ({"rows": 1, "at": 5}, [5])],
    ids=["first", "none", "up-to-the-last", "one"],
)
def test_the_rows_are_shown_that_are_asked_for(options: dict[str, int], expected: list[int], look: Look) -> None:
    assert [shown.encoded.row for shown in look(ROWS, **options).shown] == expected


@pytest.mark.parametrize("at", [-1, 12])
def test_a_number_beyond_the_rows_is_refused(at: int, look: Look) -> None:
    with refused(DataError, "`--at`", at, 11):
        look(ROWS, at=at)


def test_more_rows_than_are_counted_are_a_sample(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample includes the rows that are shown; all are counted on request, or if they are few."""
    monkeypatch.setattr(module, "COUNTED", 11)
    monkeypatch.setattr(module, "COUNTED_OF_MORE", 4)
    found = look(ROWS, rows=1, at=1)
    assert (found.counted, found.total, found.is_sample) == (5, 12, True)
    assert found.shown[0].encoded.row == 1
    assert not look(ROWS, every=True).is_sample
    assert not look(ROWS[:11]).is_sample


def test_nothing_is_left_behind(look: Look) -> None:
    look(ROWS)
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml", "train.jsonl"]
