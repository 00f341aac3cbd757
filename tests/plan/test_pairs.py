"""When planning DPO on top, preference pairs are counted by DPOTrainer's own function."""

from pathlib import Path

import pytest

import tiny
from plan.shapes import folder, recipe, small
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.plan.pairs import preference_lengths
from spin_trl.plan.planning import planned_recipe


def test_lengths_by_hand(tmp_path: Path) -> None:
    read = planned_recipe(recipe(tmp_path, folder(tmp_path / "model", small()), max_length=64), [])
    tokenizer, pairs = tiny.tokenizer(), tiny.preference(6)
    found = preference_lengths(read, pairs, PairTemplate(tokenizer))
    prompts = [len(tokenizer(row["prompt"])["input_ids"]) for row in pairs]
    wholes = [
        len(tokenizer(row["prompt"] + row[of] + tokenizer.eos_token)["input_ids"])
        for row in pairs
        for of in ("chosen", "rejected")
    ]
    assert found.num_pairs == 6
    assert found.pair == pytest.approx(sum(wholes) / 6 - sum(prompts) / 6)
    assert found.response == pytest.approx(sum(wholes) / 12 - sum(prompts) / 6)
    assert found.ends is None
    parts = [(prompts[row], wholes[2 * row] - prompts[row], wholes[2 * row + 1] - prompts[row]) for row in range(6)]
    assert sum(found.longest) == max(map(sum, parts))
    read.args.max_length = prompts[0] + 1
    assert preference_lengths(read, pairs, PairTemplate(tokenizer)).longest[1:] == (1, 1)
    read.args.truncation_mode = "keep_end"
    assert preference_lengths(read, pairs, PairTemplate(tokenizer)).longest[1:] != (1, 1)
    read.args.truncation_mode = "keep_start"
    read.args.max_length = 64
    assert preference_lengths(read, tiny.preference(6, True), PairTemplate(tokenizer)).ends
    read.play.dpo_max = 4
    assert preference_lengths(read, pairs, PairTemplate(tokenizer)).num_pairs == 4
