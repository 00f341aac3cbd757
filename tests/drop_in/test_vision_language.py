"""On preference pairs about images, SPINTrainer does the same as DPOTrainer with vision-language models."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

import tiny
from drop_in import vision
from drop_in.compare import Kind, kinds, same_metrics, steps, train_both, unchanged, weights

pytestmark = pytest.mark.numeric

LN2 = pytest.approx(0.6931472, abs=1e-5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save each kind of vision-language model, so that a trainer finds its reference; tests only read it."""
    root = tmp_path_factory.mktemp("vision")
    return {name: tiny.save(root / name, vision.model(name), vision.processor(name)) for name in vision.KINDS}


def build(kind: Kind, saved: dict[str, Path], name: str, data: Dataset, **settings: Any) -> Any:
    """Return a trainer of a kind, for a kind of model."""
    return kind.build(
        str(saved[name]),
        settings={"max_length": None, "max_steps": 2, **settings},
        train_dataset=data,
        processing_class=vision.processor(name),
    )


@pytest.mark.parametrize("name", vision.KINDS)
@pytest.mark.slow
def test_pairs_about_images_train_alike(name: str, folder: str, saved: dict[str, Path]) -> None:
    """Text and image layers learn, except for the tower's last layer in LLaVA, which reads the one before it."""
    before: list[dict[str, Any]] = []

    def make(kind: Kind) -> Any:
        trainer = build(kind, saved, name, vision.preference(4))
        before.append(weights(trainer.model))
        return trainer

    dpo, spin = train_both(folder, make)
    assert isinstance(spin.data_collator, DataCollatorForVisionPreference)
    assert steps(spin)[0] == LN2
    stuck = unchanged(before[1], spin.model)
    assert stuck == unchanged(before[0], dpo.model)
    unused = ("encoder.layers.1.", "post_layernorm") if name == "llava" else ()
    # Attention without rotary positions is unaffected by a bias of its keys, which therefore has no gradient.
    may_stick = {name for name in before[1] if name.startswith("model.vision") and name.endswith("k_proj.bias")}
    assert stuck - may_stick == {name for name in before[1] if any(part in name for part in unused)} - may_stick


@pytest.mark.parametrize("name", vision.KINDS)
def test_a_batch_of_pairs_about_images(name: str, kind: Kind, saved: dict[str, Path]) -> None:
    """Both halves see the images, only responses are scored, and tensors that accompany the tokens have their length."""
    trainer = build(kind, saved, name, vision.preference(2))
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    ids, mask = batch["input_ids"], batch["completion_mask"].bool()
    text = trainer.processing_class.tokenizer
    rows = tiny.preference(2, conversational=True)
    responses = [row["chosen"][0]["content"] for row in rows] + [row["rejected"][0]["content"] for row in rows]
    assert [text.decode(row[chosen]) for row, chosen in zip(ids, mask, strict=True)] == [
        f"{response}<|im_end|>\n" for response in responses
    ]
    images = batch["image_grid_thw"].prod(1).sum() if name == "qwen2_5_vl" else 4
    assert len(batch["pixel_values"]) == images
    for key in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        assert key not in batch or batch[key].shape == ids.shape
    assert {"llava": set(), "gemma3": {"token_type_ids"}, "qwen2_5_vl": {"mm_token_type_ids", "image_grid_thw"}}[
        name
    ] == batch.keys() - {"input_ids", "attention_mask", "completion_mask", "pixel_values"}


def test_one_image_under_its_own_name(folder: str, saved: dict[str, Path]) -> None:
    """A column `image` with one image is the same as `images` with a list of one."""
    many = vision.preference(4)
    one = many.map(lambda row: {"image": row["images"][0]}, remove_columns="images")
    from_many = build(kinds(f"{folder}/many")[0], saved, "llava", many)
    from_many.train()
    _, from_one = train_both(f"{folder}/one", lambda kind: build(kind, saved, "llava", one))
    assert steps(from_one) == pytest.approx(steps(from_many))


def test_several_images_and_none(folder: str, saved: dict[str, Path]) -> None:
    """Rows with two images, one, and none train together."""
    data = concatenate_datasets([vision.preference(2, images_per_row=n) for n in (2, 1)])
    plain = tiny.preference(2, conversational=True).to_list()
    none = Dataset.from_list([{**row, "images": []} for row in plain], features=data.features)
    data = concatenate_datasets([data, none])
    _, spin = train_both(
        folder,
        lambda kind: build(kind, saved, "qwen2_5_vl", data, per_device_train_batch_size=1, max_steps=6),
    )
    assert len(set(steps(spin, "logps/chosen"))) == 6


@pytest.mark.parametrize("conversational", [False, True], ids=["standard", "conversational"])
def test_text_alone_leaves_the_image_layers_alone(conversational: bool, folder: str, saved: dict[str, Path]) -> None:
    """A dataset without images is processed like text: tokenised once, before training."""
    before: list[dict[str, Any]] = []

    def make(kind: Kind) -> Any:
        trainer = build(kind, saved, "qwen2_5_vl", tiny.preference(4, conversational))
        before.append(weights(trainer.model))
        return trainer

    _, spin = train_both(folder, make)
    assert "prompt_ids" in spin.train_dataset.column_names
    assert unchanged(before[1], spin.model) == {name for name in before[1] if name.startswith("model.visual")}


@pytest.mark.parametrize("name", vision.KINDS)
@pytest.mark.slow
def test_responses_are_cut_at_the_length(name: str, folder: str, saved: dict[str, Path]) -> None:
    """`max_length` truncates the end of the response, and everything that accompanies its tokens."""
    data = vision.preference(4)
    whole = build(kinds(folder)[0], saved, name, data).data_collator([dict(row) for row in data])
    longest = whole["input_ids"].shape[1]
    _, spin = train_both(folder, lambda kind: build(kind, saved, name, data, max_length=longest - 3))
    assert len(steps(spin)) == 2
    cut = spin.data_collator([dict(row) for row in data])
    assert cut["input_ids"].shape[1] == longest - 3


@pytest.mark.parametrize("name", vision.KINDS)
@pytest.mark.slow
def test_a_length_that_cuts_an_image_is_explained(name: str, kind: Kind, saved: dict[str, Path]) -> None:
    """The message names `max_length`."""
    trainer = build(kind, saved, name, vision.preference(4), max_length=6)
    with pytest.raises(ValueError, match=r"`max_length` \(6\) is too short and causes image placeholder"):
        trainer.train()


def test_evaluation_on_images(folder: str, saved: dict[str, Path]) -> None:
    """The sets are given at construction and later, and the metrics are the same for both classes."""
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(saved["gemma3"]),
            settings={"max_length": None, "eval_strategy": "steps", "eval_steps": 3},
            train_dataset=vision.preference(6),
            eval_dataset={"a": vision.preference(2), "b": vision.preference(3)},
            processing_class=vision.processor("gemma3"),
        ),
    )
    assert len(steps(spin, "eval_b_loss")) == 1
    same_metrics(dpo.evaluate(vision.preference(3)), spin.evaluate(vision.preference(3)))


def test_an_adapter_on_a_vision_language_model(folder: str, saved: dict[str, Path]) -> None:
    """With LoRA on the language model alone, the reference is the model without it."""
    _, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(saved["llava"]),
            settings={"max_length": None, "learning_rate": 1.0},
            train_dataset=vision.preference(6),
            processing_class=vision.processor("llava"),
            peft_config=LoraConfig(r=4, target_modules=r".*language_model.*\.(q|v)_proj"),
        ),
    )
    assert spin.ref_model is None
    assert steps(spin)[0] == LN2
    assert abs(steps(spin, "rewards/margins")[2]) > 1e-4


def test_what_images_can_not_do_is_refused(kind: Kind, saved: dict[str, Path], llama_folder: Path) -> None:
    """The messages are DPOTrainer's."""
    data = vision.preference(2)
    with pytest.raises(ValueError, match="truncation_mode='keep_end' is not supported for vision-language models"):
        build(kind, saved, "llava", data, max_length=32, truncation_mode="keep_end")
    with pytest.raises(ValueError, match="`precompute_ref_log_probs=True` is not supported for vision datasets"):
        build(kind, saved, "llava", data, precompute_ref_log_probs=True)
    with pytest.raises(ValueError, match=r"vision-related.*does not seem to be a vision-language model"):
        kind.build(str(llama_folder), train_dataset=data, processing_class=tiny.tokenizer())
    with pytest.raises(NotImplementedError, match="multiple of a value is not yet implemented for vision-language"):
        build(kind, saved, "llava", data, pad_to_multiple_of=8).train()
