"""Turn rows into a batch: look up each row's generation, let TRL collate the pairs, and locate the unique tokens.

A dataset row names its generation by (key, iteration, sample); only the collator knows where the tokens are. Nothing is
decoded and tokenised again: the policy is trained on exactly what the opponent sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ..errors import GenerationsError
from ..generation.generations import Generations
from ..models.forward.batch import LAYOUT, PROTO_PREFIX, joined, third_rows, with_labels
from ..models.forward.layout import lay_out
from ..objectives.registry import proto_in_words
from .non_finite import ROW_NAMES
from .start_logps import START_LOGPS


@dataclass(kw_only=True)
class DataCollatorForSelfPlay(DataCollatorForPreference):
    """TRL's preference collator for rows whose rejected response is a generation of the opponent.

    Examples have `prompt_ids`, `real_ids`, and `key`, `iteration` and `sample`, which name the generation, and optionally
    `ref_chosen_logps` and `ref_rejected_logps`, and `start_real_logps` and `start_generated_logps`. Examples with
    `chosen_ids` and `rejected_ids` pass through unchanged. The batch is DPO's: `input_ids`, `attention_mask` and
    `completion_mask` of shape (2 * batch, length), real responses first. With `proto`, it also holds θ_0's responses:
    `proto_input_ids` and so on, of shape (batch, another length). The other arguments (`pad_token_id`, `max_length`,
    `truncation_mode`, `pad_to_multiple_of`) are those of TRL's collator.

    Args:
        generations: generated token ids by (key, iteration, sample).
        proto: θ_0's generations by (key, 0, sample), for objectives that use them; None for all others.

    Raises:
        GenerationsError: if an example has no generation.
        GenerationsError: there is no generation for an example.
    """

    generations: Generations
    proto: Generations | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call([self._pair(example) for example in examples])
        for name in [name for name in START_LOGPS if name in examples[0]]:
            batch[name] = torch.tensor([example[name] for example in examples])
        if self.proto is not None:
            beside = super().torch_call([self._proto_pair(example) for example in examples])
            for name in ("input_ids", "attention_mask", "completion_mask"):
                batch[f"{PROTO_PREFIX}{name}"] = beside[name][: len(examples)]
        return batch

    def _proto_pair(self, example: dict[str, Any]) -> dict[str, Any]:
        """Put the proto response in place of the chosen one, so that TRL's collator lays it out; leave rejected empty."""
        if "key" not in example:
            takers, without = proto_in_words()
            raise GenerationsError(
                f"{takers} uses a proto response (θ_0's own), and a preference pair has none. {without} trains without."
            )
        assert self.proto is not None
        proto_ids = self.proto.get((example["key"], 0, example["sample"]))
        if proto_ids is None:
            raise GenerationsError(
                f"There is no proto response for row {example['key']} (sample {example['sample']}). Pass the generations of "
                "iteration 0 for this dataset as `proto`."
            )
        return {"prompt_ids": example["prompt_ids"], "chosen_ids": proto_ids, "rejected_ids": []}

    def _pair(self, example: dict[str, Any]) -> dict[str, Any]:
        if "rejected_ids" in example:
            return example
        name = (example["key"], example["iteration"], example["sample"])
        generated_ids = self.generations.get(name)
        if generated_ids is None:
            raise GenerationsError(
                f"There is no generation for row {name[0]} (iteration {name[1]}, sample {name[2]}). Generate again, or pass "
                "the generations that were made for this dataset."
            )
        return {**example, "chosen_ids": example["real_ids"], "rejected_ids": generated_ids}


def self_play_collator(
    collator: DataCollatorForPreference, generations: Generations, prefix: str, proto: Generations | None = None
) -> DataCollatorForSelfPlay:
    """Return a self-play collator with the settings of TRL's collator, or of ours, that also knows these generations.

    Args:
        collator: collator whose settings are kept.
        generations: generations to add.
        prefix: prefix of their keys, for every dataset of a trainer except the training one.
        proto: θ_0's generations for the same keys, to add.
    """
    if not isinstance(collator, DataCollatorForSelfPlay):
        settings = {field.name: getattr(collator, field.name) for field in dataclasses.fields(collator)}
        collator = DataCollatorForSelfPlay(**settings, generations=Generations({}))
    collator.generations = collator.generations.merged(generations, prefix)
    if proto is not None:
        collator.proto = (collator.proto or Generations({})).merged(proto, prefix)
    return collator


def named(collator: Callable[[list[Any]], dict[str, Any]], examples: list[Any]) -> dict[str, Any]:
    """Return a batch that also lists its pairs, under the key `ROW_NAMES`, if all examples have names.

    Args:
        collator: collator that makes the batch.
        examples: examples of the batch.
    """
    batch = collator(examples)
    if not all("key" in example for example in examples):
        return batch
    return {**batch, ROW_NAMES: [(example["key"], example["iteration"], example["sample"]) for example in examples]}


def laid_out(collator: Callable[[list[Any]], dict[str, Any]], examples: list[Any]) -> dict[str, Any]:
    """Return a batch that also holds the layout of its unique tokens over all branches, under the key `LAYOUT`.

    Args:
        collator: TRL's preference collator, ours, or one that makes the same batches; other batches pass through unchanged.
        examples: examples of the batch.
    """
    batch = collator(examples)
    if not {"input_ids", "attention_mask", "completion_mask"} <= set(batch):
        return batch
    rows, third = with_labels(batch), third_rows(batch)
    if third is not None:
        rows = joined(rows, third)
    try:
        return batch | {LAYOUT: lay_out(**rows, num_pairs=len(batch["input_ids"]) // 2)}
    except ValueError:  # the forward can't lay it out either, and reports why
        return batch
