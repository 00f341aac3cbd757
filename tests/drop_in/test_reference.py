"""On preference data, the reference model follows DPOTrainer's own path and defaults, with every way to give or
compute it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM

import tiny
from drop_in.compare import Kind, kinds, reference_logps, same_weights, steps, train_both, unchanged, weights

pytestmark = pytest.mark.numeric


def test_without_a_reference_the_starting_point_is_it(folder: str, llama_folder: Path) -> None:
    """It is loaded from the model's id and does not change, and the first loss is ln 2."""
    dpo, spin = train_both(folder, lambda kind: kind.build(str(llama_folder), train_dataset=tiny.preference(6)))
    for trainer in (dpo, spin):
        same_weights(AutoModelForCausalLM.from_pretrained(llama_folder), trainer.ref_model)
        assert not any(module.training for module in trainer.ref_model.modules())
    assert steps(spin, "rewards/margins")[0] == pytest.approx(0, abs=1e-6)
    assert steps(spin, "rewards/margins")[2] > 1e-3


def test_an_explicit_reference_is_used_and_left_alone(folder: str, llama_folder: Path) -> None:
    """A `ref_model` becomes the trainer's, keeps its weights, and log-ratios are relative to it."""
    reference = tiny.model(seed=1)
    before = weights(reference)
    _, spin = train_both(
        folder,
        lambda kind: kind.build(
            AutoModelForCausalLM.from_pretrained(llama_folder),
            ref_model=reference,
            train_dataset=tiny.preference(6),
            processing_class=tiny.tokenizer(),
        ),
    )
    assert spin.ref_model is reference
    assert unchanged(before, reference) == set(before)
    assert abs(steps(spin, "rewards/chosen")[0]) > 1e-2


def test_the_policy_can_not_be_its_own_reference(kind: Kind) -> None:
    """One object for both would move the reference."""
    model = tiny.model()
    with pytest.raises(ValueError, match="`model` and `ref_model` cannot be the same object"):
        kind.build(model, ref_model=model, train_dataset=tiny.preference(2), processing_class=tiny.tokenizer())


def test_a_model_changed_in_memory_keeps_the_reference_of_its_id(folder: str, llama_folder: Path) -> None:
    """DPOTrainer takes the saved weights as the reference, and so does SPINTrainer on preference data."""

    def build(kind: Kind) -> Any:
        model = AutoModelForCausalLM.from_pretrained(llama_folder)
        with torch.no_grad():
            model.lm_head.weight.mul_(1.5)
        return kind.build(model, train_dataset=tiny.preference(6))

    _, spin = train_both(folder, build)
    assert abs(steps(spin, "rewards/chosen")[0]) > 1e-3
    same_weights(AutoModelForCausalLM.from_pretrained(llama_folder), spin.ref_model)


def test_a_second_trainer_takes_the_first_one_s_model(folder: str, llama_folder: Path) -> None:
    """Training continues from the first trainer's weights, as with DPOTrainer."""

    def build(kind: Kind) -> Any:
        first = kind.build(str(llama_folder), train_dataset=tiny.preference(6))
        first.train()
        return kind.build(first.model, train_dataset=tiny.preference(6), processing_class=first.processing_class)

    _, spin = train_both(folder, build)
    assert steps(spin, "rewards/margins")[0] > 1e-3


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_a_synced_reference_follows_the_policy(alpha: float, folder: str, llama_folder: Path) -> None:
    """Every `ref_model_sync_steps` steps it becomes `alpha` times the policy plus the rest of itself."""
    settings = {"sync_ref_model": True, "ref_model_sync_steps": 3, "ref_model_mixup_alpha": alpha}
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(str(llama_folder), settings=settings, train_dataset=tiny.preference(6)),
    )
    start = weights(AutoModelForCausalLM.from_pretrained(llama_folder))
    policy, reference = weights(spin.model), weights(spin.ref_model)
    for name, parameter in policy.items():
        torch.testing.assert_close(reference[name], alpha * parameter + (1 - alpha) * start[name])
    assert unchanged(start, spin.ref_model) == set()
    same_weights(dpo.ref_model, spin.ref_model)


@pytest.mark.parametrize("explicit", [False, True], ids=["own", "explicit"])
@pytest.mark.parametrize("ld_alpha", [None, 0.5])
def test_precomputed_log_probs_are_the_reference_s(
    explicit: bool, ld_alpha: float | None, kind: Kind, llama_folder: Path
) -> None:
    """Two columns hold them, computed before the first step; LD-DPO discounts the extra tokens of the longer response."""
    trainer = kind.build(
        AutoModelForCausalLM.from_pretrained(llama_folder),
        ref_model=tiny.model(seed=1) if explicit else None,
        settings={"precompute_ref_log_probs": True, "precompute_ref_batch_size": 3, "ld_alpha": ld_alpha},
        train_dataset=tiny.preference(4),
        eval_dataset=tiny.preference(2, conversational=True),
        processing_class=tiny.tokenizer(),
    )
    assert (trainer.ref_model is not None) == explicit
    reference = tiny.model(seed=1) if explicit else AutoModelForCausalLM.from_pretrained(llama_folder)
    for row in [*trainer.train_dataset, *trainer.eval_dataset]:
        shared = min(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for name in ("chosen", "rejected"):
            expected = reference_logps(reference, row["prompt_ids"], row[f"{name}_ids"])
            if ld_alpha is not None:
                head = reference_logps(reference, row["prompt_ids"], row[f"{name}_ids"][:shared])
                expected = head + ld_alpha * (expected - head)
            assert row[f"ref_{name}_logps"] == pytest.approx(expected, rel=1e-4)


def test_precomputing_changes_no_number(folder: str, llama_folder: Path) -> None:
    """Log-probs computed once train the model exactly as a reference model next to it does."""
    data = tiny.preference(6)
    beside = kinds(f"{folder}/beside")[0].build(str(llama_folder), train_dataset=data)
    beside.train()
    settings = {"precompute_ref_log_probs": True}
    dpo, once = train_both(
        f"{folder}/once", lambda kind: kind.build(str(llama_folder), settings=settings, train_dataset=data)
    )
    assert dpo.ref_model is once.ref_model is None
    assert steps(once) == pytest.approx(steps(beside), abs=1e-5)
    same_weights(beside.model, once.model)


def test_precomputed_log_probs_are_cached_on_disk(kind: Kind, folder: str, llama_folder: Path) -> None:
    """A dataset on disk gets a cache file, keyed by the weights: another model's log-probs are computed again.

    DPOTrainer writes it next to the dataset, SPINTrainer into the cache of `datasets`.
    """
    tiny.preference(4).save_to_disk(f"{folder}/data")

    def first_reference(model: Any) -> tuple[float, set[str]]:
        trainer = kind.build(
            model,
            settings={"precompute_ref_log_probs": True},
            train_dataset=load_from_disk(f"{folder}/data"),
            processing_class=tiny.tokenizer(),
        )
        folders = {Path(file["filename"]).parent for file in trainer.train_dataset.cache_files}
        files = {str(path) for place in folders for path in place.glob("cache-*.arrow")}
        return trainer.train_dataset[0]["ref_chosen_logps"], files

    first, files = first_reference(AutoModelForCausalLM.from_pretrained(llama_folder))
    again, same_files = first_reference(AutoModelForCausalLM.from_pretrained(llama_folder))
    other, more_files = first_reference(tiny.model(seed=1))
    assert again == first != other
    assert files == same_files < more_files


def test_a_synced_reference_can_not_be_precomputed(kind: Kind, llama_folder: Path) -> None:
    """It changes, so log-probs computed once would be stale."""
    settings = {"sync_ref_model": True, "precompute_ref_log_probs": True}
    with pytest.raises(ValueError, match="cannot use `sync_ref_model=True` together with `precompute_ref_log_probs"):
        kind.build(
            AutoModelForCausalLM.from_pretrained(llama_folder),
            ref_model=tiny.model(seed=1),
            settings=settings,
            train_dataset=tiny.preference(2),
            processing_class=tiny.tokenizer(),
        )


def test_log_probs_that_come_with_the_dataset_are_kept(kind: Kind, llama_folder: Path) -> None:
    """The user's own columns with the reference's log-probs are passed through to the batches."""
    rows = [{**row, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0} for row in tiny.preference(2).to_list()]
    trainer = kind.build(str(llama_folder), train_dataset=Dataset.from_list(rows))
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["ref_chosen_logps"].tolist() == [-1.0, -1.0]
    assert batch["ref_rejected_logps"].tolist() == [-2.0, -2.0]
