"""A pretrained model plays like the tiny ones: SmolLM2-135M-Instruct, if `spin-trl fetch smollm2-135m` has been run here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, BitsAndBytesConfig

from adapted import settings
from known_models import fetched_folder
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.models.digest import digest
from spin_trl.models.eos import load_eos_ids
from spin_trl.models.policy import load_policy
from spin_trl.training.trainer import SPINTrainer
from trainers import settings as of_iteration

FOLDER = fetched_folder("smollm2-135m")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="`spin-trl fetch smollm2-135m` has not been run on this machine"),
]

PROBLEMS = [
    ("Ann has 3 boats and buys 4. How many has she?", "3 + 4"),
    ("9 birds sit; 2 fly off. How many sit?", "9 - 2"),
]


def rows() -> Dataset:
    turns = [[("user", question), ("assistant", answer)] for question, answer in PROBLEMS]
    return Dataset.from_list(
        [{"messages": [{"role": role, "content": text} for role, text in messages]} for messages in turns]
    )


def test_its_template_adds_a_system_prompt_and_ends_a_turn_with_its_eos() -> None:
    """The template writes a line feed after the end of a turn, which no response ends with."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    prepared = prepare(rows(), PairTemplate(tokenizer))
    prompt, real = tokenizer.decode(prepared[0]["prompt_ids"]), tokenizer.decode(prepared[0]["real_ids"])
    assert prompt.startswith("<|im_start|>system\n")
    assert prompt.endswith("<|im_start|>assistant\n")
    assert real == "3 + 4<|im_end|>"
    assert load_eos_ids(str(FOLDER), settings(), tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_tied_embeddings_stay_tied_when_it_is_saved_and_loaded_again(tmp_path: Path) -> None:
    model = load_policy(FOLDER, settings())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "again")
    again = load_policy(tmp_path / "again", settings())
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert digest(again) == digest(model)


@pytest.mark.parametrize("lora", [False, True])
def test_an_iteration_starts_at_its_opponent_and_learns(lora: bool) -> None:
    """The loss is ln 2 and log-ratios are 0 at first; then real answers become likelier than generated ones."""
    trainer = SPINTrainer(
        model=str(FOLDER),
        args=of_iteration(
            max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2 if lora else 1e-5, max_length=128
        ),
        train_dataset=rows(),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None,
    )
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert log[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert log[-1]["rewards/margins"] > 0.01


def test_four_bits_keep_the_adapters_gradient() -> None:
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model: Any = load_policy(FOLDER, settings(), quantised)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    ids = torch.arange(5, 25)[None]
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = [one.grad for name, one in adapted.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
