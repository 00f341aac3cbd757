"""The collator pairs every real response with the generation that its row names, and builds DPO's batch from them."""

from typing import Any

import pyarrow as pa
import pytest
import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from messages import refused
from spin_trl import DataCollatorForSelfPlay
from spin_trl.errors import GenerationsError
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import SCHEMA
from spin_trl.training.collator import self_play_collator

PAD = 0
RESPONSES = {
    ("a", 0, 0): [61, 62, 63, 2],
    ("a", 0, 1): [71, 2],
    ("a", 1, 0): [81, 82, 2],
    ("b", 0, 0): [91, 92, 93, 94],
}


def generations(responses: dict[tuple[str, int, int], list[int]] = RESPONSES) -> Generations:
    """Return generations by (key, iteration, sample)."""
    tables = {}
    for iteration in {name[1] for name in responses}:
        made = [
            {"key": key, "sample": sample, "ids": ids, "finish_reason": "eos", "length": len(ids)}
            for (key, at, sample), ids in responses.items()
            if at == iteration
        ]
        tables[iteration] = pa.Table.from_pylist(made, schema=SCHEMA)
    return Generations(tables)


def example(key: str, iteration: int, sample: int, **more: Any) -> dict[str, Any]:
    prompts, real = {"a": [11, 12], "b": [13]}, {"a": [21, 2], "b": [22, 23, 2]}
    return {
        "key": key.removeprefix("eval/"),
        "iteration": iteration,
        "sample": sample,
        "prompt_ids": prompts[key.removeprefix("eval/")],
        "real_ids": real[key.removeprefix("eval/")],
        **more,
    }


def test_the_batch_is_dpos_with_real_responses_first() -> None:
    """The exact tensors, worked out by hand: real, real, generated, generated; padded on the right."""
    batch = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())(
        [example("a", 0, 0), example("b", 0, 0)]
    )
    assert batch["input_ids"].tolist() == [
        [11, 12, 21, 2, 0, 0],
        [13, 22, 23, 2, 0, 0],
        [11, 12, 61, 62, 63, 2],
        [13, 91, 92, 93, 94, 0],
    ]
    assert batch["attention_mask"].tolist() == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 0],
    ]
    assert batch["completion_mask"].tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 0],
    ]
    # The parent passes everything that it does not know to the model.
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_row_gets_the_generation_that_it_names(name: tuple[str, int, int]) -> None:
    """Key, iteration and sample are all needed to find it."""
    batch = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())([example(*name)])
    assert batch["input_ids"][1][batch["completion_mask"][1].bool()].tolist() == RESPONSES[name]


def test_a_truncated_generation_gets_no_eos() -> None:
    """It is trained on as it was sampled; an added EOS would reveal it by its length."""
    batch = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())([example("b", 0, 0)])
    assert batch["input_ids"][1].tolist() == [13, 91, 92, 93, 94]
    assert 2 not in batch["input_ids"][1]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_lengths_and_padding_are_trls(mode: str, multiple: int | None) -> None:
    """The batch equals the one that TRL's collator builds from the same ids."""
    settings = {"pad_token_id": PAD, "max_length": 4, "truncation_mode": mode, "pad_to_multiple_of": multiple}
    names = [("a", 0, 0), ("b", 0, 0)]
    ours = DataCollatorForSelfPlay(**settings, generations=generations())([example(*name) for name in names])
    given = [
        {**example(*name), "chosen_ids": example(*name)["real_ids"], "rejected_ids": RESPONSES[name]} for name in names
    ]
    theirs = DataCollatorForPreference(**settings)(given)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].equal(tensor), name
    assert ours["input_ids"].shape == (4, multiple or 4)


def test_cached_log_probs_stay_with_their_rows() -> None:
    """Each row keeps its own, in the batch's order."""
    rows = [
        example("b", 0, 0, ref_chosen_logps=-1.5, ref_rejected_logps=-2.5),
        example("a", 0, 1, ref_chosen_logps=-3.5, ref_rejected_logps=-4.5),
    ]
    batch = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())(rows)
    assert batch["ref_chosen_logps"].tolist() == [-1.5, -3.5]
    assert batch["ref_rejected_logps"].tolist() == [-2.5, -4.5]
    assert batch["ref_chosen_logps"].dtype == torch.float32


def test_given_pairs_pass_unchanged() -> None:
    """Preference data needs no generations; both kinds may be in one batch."""
    given = {"prompt_ids": [11], "chosen_ids": [21, 2], "rejected_ids": [22, 2]}
    alone = DataCollatorForPreference(pad_token_id=PAD)([given])
    ours = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations({}))([given])
    assert all(ours[name].equal(tensor) for name, tensor in alone.items())
    mixed = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())([given, example("a", 0, 1)])
    assert mixed["input_ids"].tolist() == [[11, 21, 2, 0], [11, 12, 21, 2], [11, 22, 2, 0], [11, 12, 71, 2]]


@pytest.mark.parametrize("name", [("c", 0, 0), ("a", 2, 0), ("a", 0, 2)], ids=["key", "iteration", "sample"])
def test_a_missing_generation_is_named(name: tuple[str, int, int]) -> None:
    """No other generation is used instead."""
    row = {**example("a", 0, 0), "key": name[0], "iteration": name[1], "sample": name[2]}
    collator = DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())
    with refused(GenerationsError, f"row {name[0]}", f"iteration {name[1]}", f"sample {name[2]}"):
        collator([row])


def test_examples_are_not_changed() -> None:
    """A dataset in memory is used again in the next epoch."""
    row = example("a", 0, 0)
    DataCollatorForSelfPlay(pad_token_id=PAD, generations=generations())([row])
    assert row == example("a", 0, 0)


def test_trls_collator_becomes_ours_with_its_settings() -> None:
    """A second dataset's generations are added to the first's under a prefix."""
    theirs = DataCollatorForPreference(pad_token_id=7, max_length=5, truncation_mode="keep_end", pad_to_multiple_of=4)
    ours = self_play_collator(theirs, generations(), "")
    assert isinstance(ours, DataCollatorForSelfPlay)
    assert (ours.pad_token_id, ours.max_length, ours.truncation_mode, ours.pad_to_multiple_of) == (7, 5, "keep_end", 4)
    assert dict(ours.generations) == RESPONSES
    more = {("a", 0, 0): [33, 2]}
    both = self_play_collator(ours, generations(more), "eval/")
    assert dict(both.generations) == {**RESPONSES, ("eval/a", 0, 0): [33, 2]}
