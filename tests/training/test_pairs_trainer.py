"""Human responses become pairs with the opponent's answers, or with given generations; unsuitable ones are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny
from messages import refused
from spin_trl import SPINTrainer
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import GenerationsError, RecipeError
from spin_trl.generation.generations import Generations
from trainers import (
    LORA,
    build,
    copy_of,
    llama_with,
    logged,
    logp,
    pairs,
    same,
    starts_at_its_opponent,
    store_of,
    stored,
)

pytestmark = pytest.mark.numeric


def as_dataset(trainer: SPINTrainer) -> Dataset:
    """Return a trainer's generations as a plain dataset of token ids by key."""
    return Dataset.from_list([{"key": row["key"], "ids": generated} for row, generated in pairs(trainer)])


def _by_key(trainer: SPINTrainer) -> Iterator[tuple[str, list[int]]]:
    return ((row["key"], generated) for row, generated in pairs(trainer))


def test_generations_can_be_given_in_every_form(llama_folder: Path) -> None:
    """A folder, a store, stores by iteration, a dataset and loaded generations train as if they had just been generated."""
    made = build(str(llama_folder), overrides={"output_dir": "made"})
    made.train()
    store = store_of(made)
    for number, source in enumerate(
        (str(store.folder), store.folder, store, {0: store}, Generations.load({0: store}), as_dataset(made))
    ):
        trainer = build(str(llama_folder), overrides={"output_dir": f"out/{number}"}, generations=source)
        assert not Path(f"out/{number}/generations").exists(), "nothing is generated again"
        trainer.train()
        assert logged(trainer) == logged(made)
        assert same(copy_of(trainer.model), copy_of(made.model))


def test_history_gives_every_prompt_a_pair_an_iteration(llama: PreTrainedModel) -> None:
    """Stores of two iterations give twice as many pairs; all are compared with the newest opponent."""
    first = build(llama, overrides={"output_dir": "0"})
    first.train()
    second = build(llama, overrides={"output_dir": "1"})
    opponent = llama_with(copy_of(llama))
    second.train()
    # A later iteration's store records its iteration, as a run's stores do.
    store = store_of(second)
    manifest = json.loads((store.folder / "generations.json").read_text(encoding="utf-8"))
    (store.folder / "generations.json").write_text(json.dumps({**manifest, "iteration": 1}), encoding="utf-8")
    llama.load_state_dict(opponent.state_dict())
    both = build(llama, overrides={"output_dir": "2"}, generations={0: store_of(first), 1: store})
    assert len(both.train_dataset) == 12
    assert sorted(both.train_dataset["iteration"]) == [0] * 6 + [1] * 6
    both.train()
    starts_at_its_opponent(both)
    by_iteration = {0: dict(_by_key(first)), 1: dict(_by_key(second))}
    for row, generated in pairs(both):
        assert generated == by_iteration[row["iteration"]][row["key"]]
        assert row["ref_rejected_logps"] == pytest.approx(logp(opponent, row["prompt_ids"], generated), abs=1e-3)


def test_generations_of_something_else_are_refused(llama_folder: Path) -> None:
    """Another dataset, model or template is named, with the value found, before any step is taken."""
    store = stored(llama_folder)
    manifest = store.manifest()
    for name, change in (
        ("dataset", {"train_dataset": tiny.sft(7)}),
        ("dataset", {"train_dataset": tiny.sft(6, "messages").select([5, 4, 3, 2, 1, 0])}),
        ("model", {"model": tiny.model(seed=1)}),
        ("template", {"processing_class": tiny.tokenizer(chat_template=tiny.CHATML + "{# another #}")}),
        ("template", {"overrides": {"chat_template_kwargs": {"style": "brief"}}}),
    ):
        with refused(GenerationsError, store.folder, name, repr(manifest[name])):
            build(**{"model": str(llama_folder), "generations": store, **change})


def test_unusable_generations_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    """For a missing, unfinished or damaged store, text instead of tokens, or a missing row, the error says what is wrong."""
    made = build(str(llama_folder), overrides={"output_dir": "made"})
    made.train()
    store = store_of(made)

    def is_unusable(source: Any, *parts: object) -> None:
        with refused(GenerationsError, *parts):
            build(str(llama_folder), generations=source)

    is_unusable(tmp_path, tmp_path, "generations.json", "[Errno 2]")
    is_unusable(
        Dataset.from_list([{"key": "a", "text": "hello"}]),
        "`generations`", "['key', 'text']", "`ids`", "`key`", "`real`", "`generated`",
    )  # fmt: skip
    is_unusable(as_dataset(made).select(range(5)), "Row 5", "generation")
    shard = store.folder / "shard-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    is_unusable(store, shard, "damaged")
    shard.write_bytes(whole[: len(whole) // 2])
    is_unusable(store, store.folder, "1 of 2 shards", shard.name)
    shard.unlink()
    is_unusable(store, store.folder, "1 of 2 shards")
    (store.folder / "generations.json").write_text("[1, 2]", encoding="utf-8")
    is_unusable(store, store.folder / "generations.json", "manifest")


def test_what_an_interrupted_call_answered_is_used_by_the_next(llama_folder: Path) -> None:
    """Generation inside `train()` resumes where it stopped: existing shards are not generated again."""
    whole = build(str(llama_folder), overrides={"output_dir": "whole"})
    whole.train()
    first = build(str(llama_folder), overrides={"output_dir": "out"})
    first.train()
    (store_of(first).folder / "shard-00001.parquet").unlink()
    kept = store_of(first).folder / "shard-00000.parquet"
    stamp = kept.stat().st_mtime_ns
    second = build(str(llama_folder), overrides={"output_dir": "out"})
    second.train()
    assert kept.stat().st_mtime_ns == stamp
    assert same(copy_of(second.model), copy_of(whole.model))


def test_changed_generations_never_meet_old_log_probs(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same rows, model and output folder but other generations, TRL's cache of log-probs must miss.

    A third trainer with the first generations shows that there is a cache, and that it is used if it fits.
    """
    made = build(str(llama_folder), overrides={"output_dir": "made"})
    made.train()
    first = as_dataset(made)
    # Another response of the same length, so that only the tokens differ, but neither rows, keys nor lengths.
    second = first.map(lambda row: {"ids": [*row["ids"][:-1], (row["ids"][-1] + 1) % 300]})
    computed: list[int] = []
    original = SPINTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        SPINTrainer,
        "compute_ref_log_probs",
        lambda self, model, inputs: computed.append(1) or original(self, model, inputs),
    )
    opponent = llama_with(copy_of(AutoModelForCausalLM.from_pretrained(llama_folder)))
    seen = []
    for generations, is_computed in ((first, True), (second, True), (first, False)):
        computed.clear()
        trainer = build(str(llama_folder), generations=generations)
        assert bool(computed) is is_computed
        for row, generated in pairs(trainer):
            assert row["ref_rejected_logps"] == pytest.approx(logp(opponent, row["prompt_ids"], generated), abs=1e-3)
        seen.append(trainer.train_dataset["ref_rejected_logps"][:])
        trainer.train()
        starts_at_its_opponent(trainer)
    assert seen[0] == seen[2] != seen[1]


def test_the_opponents_pass_has_larger_batches_and_keeps_nothing(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has four times as many pairs as a step, or the number in the settings, in inference mode; steps run no opponent."""
    seen: list[tuple[int, bool]] = []
    original = SPINTrainer.compute_ref_log_probs

    def note(self: SPINTrainer, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append((len(inputs["input_ids"]) // 2, torch.is_inference_mode_enabled()))
        return original(self, model, inputs)

    monkeypatch.setattr(SPINTrainer, "compute_ref_log_probs", note)
    for settings_of_pass, expected in (({}, [4, 2]), ({"precompute_ref_batch_size": 5}, [5, 1])):
        seen.clear()
        for peft in (None, LoraConfig(**LORA)):
            folder = f"{expected}/{peft is None}"
            overrides = {"per_device_train_batch_size": 1, "output_dir": folder, **settings_of_pass}
            build(str(llama_folder), overrides=overrides, peft_config=peft).train()
        assert seen == [(count, True) for count in expected] * 2


def test_every_epoch_sees_every_pair_once_in_an_order_that_seed_and_epoch_decide(llama_folder: Path) -> None:
    """The order is the same for any trainer with that seed, and another one in each epoch and for another seed."""

    def epochs(seed: int, **overrides: Any) -> list[list[str]]:
        name = f"out/{seed}{len(overrides)}"
        trainer = build(
            str(llama_folder),
            train_dataset=tiny.sft(7),
            overrides={"seed": seed, "num_train_epochs": 3, "max_steps": -1, "output_dir": name, **overrides},
        )
        seen: list[str] = []
        trainer.train()
        collator = trainer.data_collator
        trainer.data_collator = lambda examples: seen.extend(row["key"] for row in examples) or collator(examples)
        loader = trainer.get_train_dataloader()
        for epoch in range(3):
            loader.set_epoch(epoch)
            list(loader)
        return [seen[start : start + 7] for start in (0, 7, 14)]

    first = epochs(1)
    assert all(len(set(keys)) == 7 for keys in first)
    assert first[0] != first[1] != first[2]
    assert first == epochs(1, shared_prefix=False)
    assert first != epochs(2)


def test_prepared_rows_are_not_prepared_again(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a run's own rows, no text is tokenised a second time, and the only mapping keeps the opponent's
    log-probabilities.
    """
    rows = prepare(tiny.sft(6), PairTemplate(tiny.tokenizer()))
    mapped: list[str] = []

    def noted(dataset: Dataset, function: Any, *args: Any, **kwargs: Any) -> Dataset:
        mapped.append(function.__name__)
        return plain(dataset, function, *args, **kwargs)

    plain = Dataset.map
    monkeypatch.setattr(Dataset, "map", noted)
    monkeypatch.setattr(PairTemplate, "encode", None)
    build(
        str(llama_folder), train_dataset=rows, generations=Dataset.from_dict({"key": rows["key"], "ids": [[5, 6]] * 6})
    )
    assert mapped == ["add_ref_logps"]


def test_generations_with_tokens_that_the_model_does_not_have_are_refused(llama_folder: Path) -> None:
    rows = prepare(tiny.sft(3), PairTemplate(tiny.tokenizer()))
    generations = Dataset.from_dict({"key": rows["key"], "ids": [[5], [10**6], [6]]})
    with refused(GenerationsError, f"id {10**6}"):
        build(str(llama_folder), train_dataset=rows, generations=generations)


def test_changed_human_responses_never_meet_old_log_probs(llama_folder: Path) -> None:
    """A corrected answer under the same key has its own log-probs."""
    rows = prepare(tiny.sft(6), PairTemplate(tiny.tokenizer()))
    changed = rows.map(lambda row: {"real_ids": [*row["real_ids"][:-1], 9, row["real_ids"][-1]]})
    generations = Dataset.from_dict({"key": rows["key"], "ids": [[5, 6, 7]] * 6})
    for given in (rows, changed):
        trainer = build(str(llama_folder), train_dataset=given, generations=generations)
        trainer.train()
        starts_at_its_opponent(trainer)
        for row, _ in pairs(trainer):
            expected = logp(tiny.model(), row["prompt_ids"], row["real_ids"])
            assert row["ref_chosen_logps"] == pytest.approx(expected, abs=1e-3)


def test_a_trainer_alone_needs_a_number_of_responses_that_are_sampled_together(llama_folder: Path) -> None:
    """`auto` is computed once per run, and a trainer has no run that keeps it."""
    with refused(RecipeError, "`generation_batch_size: auto`"):
        build(str(llama_folder), overrides={"generation_batch_size": "auto"}).train()
