"""Preference pairs are shown as DPOTrainer tokenises them, with what a run would leave out or refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.cli import main
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError
from spin_trl.play.first_steps import preview_pairs as module
from spin_trl.play.first_steps.preview_pairs import PreviewedPairs, preview_pairs
from spin_trl.run.recipe import read_recipe
from spin_trl.training.pair_ends import tokens_of_dpo

Look = Callable[..., PreviewedPairs]
CHATS = tiny.preference(6, True).to_list()


@pytest.fixture
def look(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """A function that previews pairs with some settings."""
    monkeypatch.chdir(tmp_path)

    def preview_of(pairs: list[dict[str, Any]], *, rows: int = 2, at: int = 0, **settings: Any) -> PreviewedPairs:
        write(pairs, llama_folder, **settings)
        found = preview_pairs(read_recipe("recipe.yaml"), PairTemplate(tiny.tokenizer()), range(at, at + rows))
        assert found is not None
        return found

    return preview_of


def write(pairs: list[dict[str, Any]], model: Path, **settings: Any) -> None:
    """Write a recipe with its data to the working directory."""
    tiny.write_jsonl("train.jsonl", tiny.sft(12, "messages"))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    known = {"model_name_or_path": str(model), "dataset_name": "train.jsonl", "dpo_name": "pairs.jsonl"}
    known |= {"max_length": 96, "bf16": False, "use_cpu": True, "report_to": "none", "then_dpo": "best"}
    Path("recipe.yaml").write_text(yaml.safe_dump(known | settings), encoding="utf-8")


def test_pieces_are_dpo_trainers_tokens(look: Look) -> None:
    """With the newline that ChatML writes after the end of a turn, which is named."""
    tokenizer, found = tiny.tokenizer(), look(CHATS, rows=6)
    theirs = tokens_of_dpo(Dataset.from_list(CHATS), tokenizer)
    assert len(found.shown) == found.used == found.total == 6
    for number, pair in enumerate(found.shown):
        parts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        ids = {name: theirs[f"{name}_ids"][number] for name in parts}
        for name, pieces in parts.items():
            assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids[name])
        assert pair.tokens == tuple(map(len, ids.values()))
        own = {name: "".join(piece.text for piece in pieces if not piece.is_added) for name, pieces in parts.items()}
        assert own == {name: CHATS[number][name][-1]["content"] for name in parts}
    assert "".join(piece.text for piece in found.shown[0].chosen if piece.is_added) == "<|im_end|>\n"
    assert names(found.remarks[-1], "DPOTrainer", r"'\n'")
    assert found.refusals == []


def test_text_with_the_prompt_inside_is_taken_apart(look: Look) -> None:
    found = look(tiny.preference(3, False, True).to_list(), rows=1).shown[0]
    shown = ["".join(piece.text for piece in pieces) for pieces in (found.prompt, found.chosen, found.rejected)]
    row = tiny.preference(3, False, True)[0]
    assert [shown[0] + one for one in shown[1:]] == [f"{row[name]}<|im_end|>" for name in ("chosen", "rejected")]


def test_max_length_of_dpo_cuts(look: Look) -> None:
    tokens = tokens_of_dpo(Dataset.from_list(CHATS), tiny.tokenizer())
    prompt, chosen, rejected = (len(tokens[f"{name}_ids"][0]) for name in ("prompt", "chosen", "rejected"))
    found = look(CHATS, dpo_max_length=prompt + 1).shown[0]
    assert found.cut == (chosen - 1, rejected - 1)
    kept = [piece.text for piece in found.chosen if not piece.is_cut]
    assert "".join(kept) == tiny.tokenizer().decode(tokens["chosen_ids"][0][:1])
    assert names(str(look(CHATS, dpo_max_length=prompt).shown[0].problem), "`max_length`", prompt)


def test_pairs_that_a_run_would_refuse_are_refused_with_their_numbers(look: Look) -> None:
    pairs = [dict(row) for row in tiny.preference(6).to_list()]
    pairs[1]["chosen"] = ""
    pairs[2]["rejected"] = pairs[2]["chosen"]
    found = look(pairs, rows=4)
    assert [pair.problem is None for pair in found.shown] == [True, False, False, True]
    assert (found.used, found.total) == (4, 6)
    assert names(*found.refusals, "Row 1", "`chosen`", "`bad_rows: skip`")
    skipped = look(pairs, rows=4, bad_rows="skip")
    assert skipped.refusals == []
    assert len(skipped.remarks) == 2
    same = [{**row, "rejected": row["chosen"]} for row in pairs[3:]]
    found = look(same)
    assert (found.used, found.shown) == (0, [])
    assert names(*found.refusals, "`chosen`", "`rejected`", 3)


def test_pairs_that_are_there_are_shown(look: Look) -> None:
    assert [pair.number for pair in look(CHATS, rows=3, at=4).shown] == [4, 5]
    assert look(CHATS, rows=3, at=9).shown == []


def test_the_first_of_many_are_checked(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 3)
    assert (found := look(CHATS, rows=2)).checked == found.used == 3
    assert look(CHATS, rows=2, at=4).checked == 6


def test_data_without_pairs_is_refused(look: Look) -> None:
    with refused(DataError, "`chosen`", "`rejected`"):
        look(tiny.sft(3).to_list())


def test_the_command_shows_pairs(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the rows, in the same marks; and what a run would refuse ends the command."""
    monkeypatch.chdir(tmp_path)
    write(CHATS, llama_folder)
    assert main(["preview", "recipe.yaml", "--rows", "1"]) == 0
    shown, first = capsys.readouterr().out, CHATS[0]
    assert f"--- chosen\n{first['chosen'][0]['content']}⟦<|im_end|>\n⟧\n" in shown
    assert f"--- rejected\n{first['rejected'][0]['content']}⟦<|im_end|>\n⟧\n" in shown
    assert names(shown, "Row 0", "Preference pair 0", "6 rows", "DPOTrainer")
    write([{**first, "chosen": []}, *CHATS], llama_folder)
    assert main(["preview", "recipe.yaml"]) == 2
    printed = capsys.readouterr()
    assert names(printed.err, "Row 0", "`chosen`")
    assert names(printed.out, "Preference pair 1")
