"""Evaluation works for every container, at construction and later, with and without precomputed reference log-probs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict
from transformers import AutoModelForCausalLM, EvalPrediction

import tiny
from drop_in.compare import Kind, kinds, same_metrics, steps, train_both

pytestmark = pytest.mark.numeric

CONTAINERS = (
    "dataset",
    "iterable_dataset",
    "dataset_dict",
    "iterable_dataset_dict",
    "dict_of_dataset",
    "dict_of_iterable_dataset",
)


def contained(container: str) -> Any:
    """Return pairs to evaluate on, in a container; containers with names hold two sets of different size."""
    parts: dict[str, Any] = {"short": tiny.preference(3), "long": tiny.preference(5, conversational=True)}
    if "iterable" in container:
        parts = {name: data.to_iterable_dataset() for name, data in parts.items()}
    if container.startswith("dict_of"):
        return parts
    if "dict" in container:
        return (IterableDatasetDict if "iterable" in container else DatasetDict)(parts)
    return parts["short"]


def losses(metrics: dict[str, float]) -> set[str]:
    """Return the names under which losses were reported."""
    return {name for name in metrics if name.endswith("_loss") and "aux" not in name}


@pytest.mark.parametrize("precompute", [False, True], ids=["at once", "precomputed"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_evaluate_takes_every_container(container: str, precompute: bool, folder: str, llama_folder: Path) -> None:
    """Raw pairs are prepared as at construction, and the numbers are DPOTrainer's. Streams can't be precomputed."""
    metrics = []
    for kind in kinds(folder):
        trainer = kind.build(
            str(llama_folder),
            settings={"precompute_ref_log_probs": precompute},
            train_dataset=tiny.preference(4),
        )
        if precompute and "iterable" in container:
            with pytest.raises(ValueError, match="precompute_ref_log_probs=True` is not supported with IterableData"):
                trainer.evaluate(contained(container))
        else:
            metrics.append(trainer.evaluate(contained(container), metric_key_prefix="test"))
            named = {"test_short_loss", "test_long_loss"} if "dict" in container else {"test_loss"}
            assert losses(metrics[-1]) == named
            assert [metrics[-1][name] for name in named] == pytest.approx([np.log(2)] * len(named), abs=1e-5)
    if metrics:
        same_metrics(*metrics)


@pytest.mark.parametrize("container", [*CONTAINERS, "none"])
def test_an_evaluation_set_is_prepared_at_construction(container: str, kind: Kind, llama_folder: Path) -> None:
    """Each part is tokenised under its own name; None stays None."""
    trainer = kind.build(
        str(llama_folder),
        train_dataset=tiny.preference(4),
        eval_dataset=None if container == "none" else contained(container),
    )
    if container == "none":
        assert trainer.eval_dataset is None
    elif "dict" in container:
        assert {name: len(list(data)) for name, data in trainer.eval_dataset.items()} == {"short": 3, "long": 5}
        for data in trainer.eval_dataset.values():
            assert {"prompt_ids", "chosen_ids", "rejected_ids"} <= next(iter(data)).keys()
    else:
        assert len(list(trainer.eval_dataset)) == 3
        assert (
            next(iter(trainer.eval_dataset))["prompt_ids"]
            == tiny.tokenizer()(tiny.preference(1)[0]["prompt"]).input_ids
        )


@pytest.mark.parametrize("container", ["dataset", "dataset_dict", "dict_of_dataset"])
@pytest.mark.parametrize("precompute", [False, True], ids=["at once", "precomputed"])
@pytest.mark.slow
def test_evaluation_during_and_after_training(
    container: str, precompute: bool, folder: str, llama_folder: Path
) -> None:
    """A set given at construction is evaluated at its steps, and again later, against the untrained reference."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "precompute_ref_log_probs": precompute}
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(llama_folder),
            settings=settings,
            train_dataset=tiny.preference(6),
            eval_dataset=contained(container),
        ),
    )
    name = "eval_short_loss" if "dict" in container else "eval_loss"
    assert len(steps(spin, name)) == 2  # at step 2 and at the end
    later = spin.evaluate()
    same_metrics(dpo.evaluate(), later)
    assert later[name] != pytest.approx(np.log(2), abs=1e-4)
    if "dict" in container:
        same_metrics(dpo.evaluate("long"), spin.evaluate("long"))


def test_new_pairs_after_training_have_no_reference_left(kind: Kind, llama_folder: Path) -> None:
    """Precomputing kept no reference model, so new pairs can be evaluated before the first step but not after it."""
    trainer = kind.build(
        str(llama_folder),
        settings={"precompute_ref_log_probs": True, "max_steps": 1},
        train_dataset=tiny.preference(4),
    )
    assert trainer.evaluate(tiny.preference(3))["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    trainer.train()
    with pytest.raises(ValueError, match="Cannot compute reference log-probs for a dataset passed to `evaluate"):
        trainer.evaluate(tiny.preference(3))


def test_new_pairs_after_training_with_an_explicit_reference(folder: str, llama_folder: Path) -> None:
    """Precomputing makes no difference if the `ref_model` is kept."""
    settings = {"precompute_ref_log_probs": True}
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            AutoModelForCausalLM.from_pretrained(llama_folder),
            ref_model=tiny.model(seed=1),
            settings=settings,
            train_dataset=tiny.preference(6),
            processing_class=tiny.tokenizer(),
        ),
    )
    same_metrics(dpo.evaluate(tiny.preference(3)), spin.evaluate(tiny.preference(3)))


@pytest.mark.parametrize("where", ["train", "eval", "eval_dict", "eval_iterable_dataset_dict"])
def test_streams_can_not_be_precomputed(where: str, kind: Kind, llama_folder: Path) -> None:
    """They may be the training set, the evaluation set or a part of it."""
    data = tiny.preference(4)
    stream = data.to_iterable_dataset()
    sets: dict[str, Any] = {
        "train": {"train_dataset": stream},
        "eval": {"train_dataset": data, "eval_dataset": stream},
        "eval_dict": {"train_dataset": data, "eval_dataset": {"a": data, "b": stream}},
        "eval_iterable_dataset_dict": {"train_dataset": data, "eval_dataset": IterableDatasetDict({"a": stream})},
    }
    with pytest.raises(ValueError, match="precompute_ref_log_probs=True` is not supported with IterableDataset"):
        kind.build(str(llama_folder), settings={"precompute_ref_log_probs": True}, **sets[where])


def test_compute_metrics_sees_logits_and_ids(folder: str, llama_folder: Path) -> None:
    """Predictions are the logits of both responses, label ids the tokens; its result is reported."""
    seen: list[EvalPrediction] = []

    def top_logit(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"top": float(prediction.predictions.max(-1).mean())}

    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(llama_folder),
            settings={"eval_strategy": "steps", "eval_steps": 3},
            train_dataset=tiny.preference(6),
            eval_dataset=tiny.preference(2),
            compute_metrics=top_logit,
        ),
    )
    expected, found = seen
    for trainer, prediction in ((dpo, expected), (spin, found)):
        assert steps(trainer, "eval_top") == [float(prediction.predictions.max(-1).mean())]
    assert found.predictions.shape == (4, found.label_ids.shape[1], len(tiny.tokenizer()))
    np.testing.assert_allclose(found.predictions, expected.predictions, atol=1e-5)
    assert (found.label_ids == expected.label_ids).all()
    assert tiny.preference(1)[0]["chosen"] in tiny.tokenizer().decode(found.label_ids[0])
    expected, found = (trainer.predict(trainer.eval_dataset) for trainer in (dpo, spin))
    np.testing.assert_allclose(found.predictions, expected.predictions, atol=1e-5)
    same_metrics(expected.metrics, found.metrics)


def test_accuracy_and_margins_count_pairs(kind: Kind, llama_folder: Path) -> None:
    """Against a reference that is the policy itself with the responses exchanged, half of the pairs are right."""
    rows = tiny.preference(4).to_list()
    swapped = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    trainer = kind.build(
        AutoModelForCausalLM.from_pretrained(llama_folder),
        ref_model=tiny.model(seed=1),
        train_dataset=tiny.preference(2),
        processing_class=tiny.tokenizer(),
    )
    metrics = trainer.evaluate(Dataset.from_list(rows + swapped))
    assert metrics["eval_rewards/accuracies"] == 0.5
    assert metrics["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
