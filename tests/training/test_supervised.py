"""Supervised training is cross-entropy over the real responses, EOS included, for any prompt."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTTrainer

import tiny
from messages import refused
from spin_trl.config.sft import SupervisedConfig, supervised_config
from spin_trl.errors import DivergedError
from spin_trl.training.supervised import save_model, train_supervised
from trainers import settings

ROWS = [([5, 6, 7], [8, 9, 10, 11]), ([12], [13, 14]), ([15, 16], [17])]


def rows() -> Dataset:
    return Dataset.from_list(
        [
            {"key": f"k{n}", "prompt_ids": prompt, "real_ids": real, "prompt": "p"}
            for n, (prompt, real) in enumerate(ROWS)
        ]
    )


def by_hand(model: Any, pairs: list[tuple[list[int], list[int]]], smoothing: float) -> float:
    """Return (1 - s) * mean of -log p(token) + s * mean of -log p over the vocabulary, over all real tokens, row by row."""
    nll = smooth = count = 0.0
    for prompt, real in pairs:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([prompt + real])).logits[0].double().log_softmax(-1)
        for place, token in enumerate(real, len(prompt) - 1):
            nll -= float(scores[place, token])
            smooth -= float(scores[place].mean())
            count += 1
    return ((1 - smoothing) * nll + smoothing * smooth) / count


def logged(model: Any, **overrides: Any) -> float:
    """Return the loss of one step on all three rows."""
    trainer = train_supervised(model, tiny.tokenizer(), rows(), supervised(max_steps=1, **overrides), [])
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def supervised(*, label_smoothing_factor: float = 0.0, **overrides: Any) -> SupervisedConfig:
    """Return settings of supervised training on all three rows at once."""
    args = supervised_config(settings(per_device_train_batch_size=3, **overrides))
    args.label_smoothing_factor = label_smoothing_factor
    return args


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_the_loss_by_hand(llama: Any, smoothing: float) -> None:
    expected = by_hand(llama, ROWS, smoothing)
    assert logged(llama, label_smoothing_factor=smoothing) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("loss_type", "smoothing"), [("nll", 0.0), ("dft", 0.0), ("nll", 0.25)])
def test_points_are_compared_by_the_nll_whatever_the_loss_is(llama: Any, loss_type: str, smoothing: float) -> None:
    """DFT's loss falls where the NLL rises, and a smoothed loss is not an NLL either."""
    expected = by_hand(llama, ROWS, 0.0)
    args = supervised(max_steps=1, learning_rate=1e-12, label_smoothing_factor=smoothing)
    args.loss_type = loss_type
    trainer = train_supervised(llama, tiny.tokenizer(), rows(), args, [], held_out=rows())
    assert trainer.evaluate()["eval_nll"] == pytest.approx(expected, rel=1e-4)
    assert (trainer.args.loss_type, trainer.args.label_smoothing_factor) == (loss_type, smoothing)


def test_rows_that_are_too_long_are_cut_at_their_end(llama: Any) -> None:
    """3 + 1 tokens of the first row are left."""
    cut = [([5, 6, 7], [8]), *ROWS[1:]]
    expected = by_hand(llama, cut, 0.0)
    assert logged(llama, max_length=4) == pytest.approx(expected, rel=1e-4)


def test_the_tokens_are_those_of_self_play(llama: Any) -> None:
    """Prompt and real response, including its end, are padded on the right; only the response is learned."""
    trainer = train_supervised(llama, tiny.tokenizer(), rows(), supervised(max_steps=1), [])
    (batch,) = trainer.get_train_dataloader()
    found = {
        tuple(ids.tolist()): labels.tolist() for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    }
    pad, width = tiny.tokenizer().pad_token_id, 7
    expected = {
        (*prompt, *real, *[pad] * (width - len(prompt + real))): [
            *[-100] * len(prompt),
            *real,
            *[-100] * (width - len(prompt + real)),
        ]
        for prompt, real in ROWS
    }
    assert found == expected


def test_a_response_becomes_likelier(llama: Any) -> None:
    before = by_hand(llama, ROWS, 0.0)
    train_supervised(llama, tiny.tokenizer(), rows(), supervised(max_steps=20), [])
    assert by_hand(llama.eval(), ROWS, 0.0) < 0.5 * before


def test_a_loss_that_is_no_number_stops_it_and_names_its_rows(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SFTTrainer.compute_loss
    monkeypatch.setattr(SFTTrainer, "compute_loss", lambda *args, **kwargs: original(*args, **kwargs) * math.nan)
    with refused(DivergedError, "step 1", "3 rows", "k0", "k1", "k2") as error:
        logged(llama)
    assert sorted(row[0] for row in error.value.rows) == ["k0", "k1", "k2"]


def test_a_model_is_saved_with_the_checksums_of_its_files(llama: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    found = save_model(llama, tiny.tokenizer(), folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files.keys()
    assert {name: (one.size, one.sha256) for name, one in found.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }


def test_a_model_that_can_not_be_saved_leaves_the_one_before(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokenizer = tmp_path / "model", tiny.tokenizer()
    save_model(llama, tokenizer, folder)
    before = (folder / "model.safetensors").read_bytes()

    def fail(path: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with torch.no_grad():
        llama.model.norm.weight.add_(1)
    with refused(OSError, 28):
        save_model(llama, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() == before
