"""Scored pairs are rows of a dataset, and its card says what they are."""

from __future__ import annotations

import math

import pyarrow as pa
from datasets import Dataset

import tiny
from messages import names
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import SCHEMA
from spin_trl.hub.dataset import RENDERED, features_of_pairs, form_of
from spin_trl.hub.scored_pairs import OF_SCORED_PAIRS, ScoredPairs, mean_of_scores, scored_pair, scored_pairs_card


def sampled(key: str, texts: list[str]) -> Generations:
    """Return samples of one prompt; all but the last end with EOS."""
    tokenizer = tiny.tokenizer()
    lines = []
    for number, text in enumerate(texts):
        reason = "length" if number == len(texts) - 1 else "eos"
        ids = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if reason == "eos" else [])
        lines.append({"key": key, "sample": number, "ids": ids, "finish_reason": reason, "length": len(ids)})
    return Generations({0: pa.Table.from_pylist(lines, schema=SCHEMA)})


def rows_of_kind(kind: tiny.SFTKind) -> Dataset:
    return prepare(tiny.sft(2, kind), PairTemplate(tiny.tokenizer()))


def test_both_responses_are_samples_of_the_prompt() -> None:
    """The earlier turns and the roles of a conversation are kept."""
    row = rows_of_kind("multi-turn")[0]
    samples = sampled(row["key"], ["wrong", "right", "cut"])
    pair = scored_pair(row, samples, (1.0, 0.25), (1, 2), tiny.tokenizer(), "messages")
    assert pair["prompt"] == tiny.sft(2, "multi-turn")[0]["messages"][:3]
    assert pair["chosen"] == [{"role": "assistant", "content": "right"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "cut"}]
    assert (pair["chosen_score"], pair["rejected_score"]) == (1.0, 0.25)
    assert (pair["chosen_sample"], pair["rejected_sample"]) == (1, 2)
    assert (pair["chosen_finish_reason"], pair["rejected_finish_reason"]) == ("eos", "length")
    assert set(pair) == set(features_of_pairs("messages", OF_SCORED_PAIRS))


def test_a_prompt_that_messages_can_not_say_is_written_as_the_template_made_it() -> None:
    rows = rows_of_kind("messages").remove_columns("conversation")
    assert form_of(rows) == RENDERED
    samples = sampled(rows[0]["key"], ["wrong", "right", "cut"])
    pair = scored_pair(rows[0], samples, (1.0, 0.0), (1, 0), tiny.tokenizer(), RENDERED)
    assert pair["prompt"].startswith("<|im_start|>user")
    assert (pair["chosen"], pair["rejected"]) == (f"right{tiny.IM_END}", f"wrong{tiny.IM_END}")


def test_the_mean_is_that_of_the_samples_with_a_score() -> None:
    assert mean_of_scores([1.0, math.nan, 0.0, 0.5, math.inf]) == 0.5
    assert mean_of_scores([math.nan]) is None


def test_the_card_says_who_ranked_what() -> None:
    """Names from settings can't become markup."""
    found = ScoredPairs(
        run="my-run",
        stage="iteration-1",
        scorer=["gsm8k"],
        score="exact_match",
        form="messages",
        prompts=1200,
        pairs=700,
        without_pair={"equal": 480, "identical": 15, "unscored": 5},
        mean_score=0.4375,
        truncated={"chosen": 3, "rejected": 9},
        repeated=2,
        sampling={"temperature": 1.0, "num_generations": 8},
    )
    card = scored_pairs_card(found)
    assert names(card, "`gsm8k`", "`exact_match`", "`iteration-1`", "`my-run`", "8", "1,200", "700", "480", "15", "5")
    assert names(card, "0.4375", "3", "9", "2", "human")
    assert "configs:" not in card, "then `load_dataset` returns what it has cached for another folder of the same name"
