"""Iterations with adapters of every kind start at their opponent, and leave the base model unchanged."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from messages import refused
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.errors import OpponentError, RecipeError
from spin_trl.models.digest import base_tensors
from spin_trl.models.policy import load_policy
from spin_trl.training.opponent import in_place_of_the_policy

pytestmark = pytest.mark.numeric

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
INT8 = BitsAndBytesConfig(load_in_8bit=True)
BFLOAT16 = {"dtype": "bfloat16"}
KINDS = {
    "embeddings": LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    "embeddings alone": LoraConfig(r=4, target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
    "DoRA": LoraConfig(**LORA, use_dora=True),
    "whole embeddings": LoraConfig(**LORA, modules_to_save=["embed_tokens"]),
    "whole head": LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "whole norm": LoraConfig(**LORA, modules_to_save=["norm"]),
    "all whole": LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head", "norm"]),
    "some tokens": LoraConfig(**LORA, trainable_token_indices=[3, 4, 30, 31]),
    "VeRA": VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "IA3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "LoHa": LoHaConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


def build(model: Any, **kwargs: Any) -> SPINTrainer:
    """Return a self-play trainer on six rows, with two steps of three pairs."""
    more = kwargs.pop("overrides", {})
    values: dict[str, Any] = {
        "output_dir": "out",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "per_device_train_batch_size": 3,
        "num_train_epochs": 1,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "max_length": 64,
        "max_new_tokens": 8,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SPINTrainer(
        model,
        args=SPINConfig(**{**values, **more}),
        train_dataset=tiny.sft(6),
        processing_class=tiny.tokenizer(),
        **kwargs,
    )


def starts_at_its_opponent(trainer: SPINTrainer, tolerance: float = 1e-5) -> None:
    """Check that the last `train()` began where every log-ratio is 0, and moved."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-2:]
    assert losses[0] == pytest.approx(math.log(2), abs=tolerance)
    assert losses[1] != losses[0]


def frozen(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of the base model's weights."""
    return {name: tensor.clone() for name, tensor in base_tensors(model).items()}


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 25).unsqueeze(0)).logits


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_three_iterations_of_any_adapter(kind: str, tied: bool, tmp_path: Path) -> None:
    """`train()` runs twice on one trainer, then another trainer continues from the saved adapter, as a run does."""
    folder = tiny.save(tmp_path / "base", tiny.model(tie_word_embeddings=tied))
    if kind == "some tokens" and tied:
        with refused(RecipeError, "`trainable_token_indices`", "`modules_to_save`"):
            build(str(folder), peft_config=KINDS[kind], overrides={"output_dir": str(tmp_path / "out")})
        return
    plain = scores(AutoModelForCausalLM.from_pretrained(folder))
    trainer = build(str(folder), peft_config=KINDS[kind], overrides={"output_dir": str(tmp_path / "out")})
    base = frozen(trainer.model)
    for _ in range(2):
        trainer.train()
        starts_at_its_opponent(trainer)
        assert all(torch.equal(tensor, base[name]) for name, tensor in base_tensors(trainer.model).items())
    with trainer.model.disable_adapter():
        torch.testing.assert_close(scores(trainer.model.eval()), plain)
    trainer.save_model(str(tmp_path / "model"))
    model = load_policy(tmp_path / "model", trainer.args, trainable=True)
    trained = scores(model.eval())
    torch.testing.assert_close(trained, scores(trainer.model))
    later = build(model, overrides={"output_dir": str(tmp_path / "later")})
    with in_place_of_the_policy(later.model):
        torch.testing.assert_close(scores(later.model.eval()), trained)
    later.train()
    starts_at_its_opponent(later)
    with in_place_of_the_policy(later.model):
        torch.testing.assert_close(scores(later.model.eval()), trained)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_whole_layers_are_trained_in_float32(precision: str, tmp_path: Path) -> None:
    """In mixed precision, for a base in any dtype, steps that bfloat16 would lose still move them."""
    folder = tiny.save(tmp_path / "base")
    settings = {"learning_rate": 1e-6, "output_dir": str(tmp_path / "out"), "model_init_kwargs": BFLOAT16}
    trainer = build(str(folder), peft_config=copy.copy(KINDS["all whole"]), overrides=settings | {precision: True})
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    whole = {name: value.detach().clone() for name, value in trained.items() if "modules_to_save" in name}
    assert {name.rpartition(".modules_to_save")[0].rpartition(".")[2] for name in whole} > {"embed_tokens", "lm_head"}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    if precision == "bf16":  # on a CPU, nothing computes in float16
        trainer.train()
        assert all(not torch.equal(trained[name], value) for name, value in whole.items())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_of_pissa_or_olora_goes_on(init: str, tmp_path: Path) -> None:
    """Its frozen copy subtracts nothing more from the base, and the saved adapter loads unchanged."""
    folder = tiny.save(tmp_path / "base")
    start = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**LORA, init_lora_weights=init))
    start.save_pretrained(tmp_path / "sft")
    model = load_policy(tmp_path / "sft", SPINConfig(use_cpu=True, bf16=False), trainable=True)
    base = frozen(model)
    trainer = build(model, overrides={"output_dir": str(tmp_path / "out")})
    for _ in range(2):
        trainer.train()
        starts_at_its_opponent(trainer)
        assert all(torch.equal(tensor, base[name]) for name, tensor in base_tensors(trainer.model).items())
    trainer.save_model(str(tmp_path / "model"))
    loaded = load_policy(tmp_path / "model", trainer.args)
    torch.testing.assert_close(scores(loaded.eval()), scores(trainer.model.eval()), rtol=1e-3, atol=1e-3)


# ---- 8 bits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose hidden states have outliers, different in every batch: LLM.int8() computes these in float16."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 4}
    return tiny.save(tmp_path_factory.mktemp("wide"), tiny.model("qwen2", **sizes))


def test_8_bit_weights_say_something_else_in_another_batch(outliers: Path) -> None:
    """The difference is far more than float32's noise, so results from other batches don't measure the opponent."""
    model = load_policy(outliers, SPINConfig(use_cpu=True, bf16=False), INT8).eval()
    ids = torch.randint(5, 300, (8, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model(ids).logits.log_softmax(-1)
        alone = torch.cat([model(row[None]).logits for row in ids]).log_softmax(-1)
    assert (together - alone).abs().max() > 1e-2


def test_lora_on_8_bit_weights_starts_at_its_opponent(outliers: Path, tmp_path: Path) -> None:
    """Policy and opponent are computed over the same batches, so their log-ratios are 0, not about 0."""
    trainer = build(
        str(outliers),
        quantization_config=INT8,
        peft_config=LoraConfig(**LORA),
        overrides={"output_dir": str(tmp_path), "learning_rate": 1e-3},
    )
    assert trainer.model.is_loaded_in_8bit
    for _ in range(2):
        trainer.train()
        starts_at_its_opponent(trainer, tolerance=1e-7)


@pytest.mark.parametrize("learning_rate", [1e-3, 1e-4])
def test_an_opponent_one_step_off_is_caught_on_8_bit_weights(
    learning_rate: float, outliers: Path, tmp_path: Path
) -> None:
    """The frozen adapter is the policy as it was one optimiser step ago."""
    trainer = build(
        str(outliers),
        quantization_config=INT8,
        peft_config=LoraConfig(**LORA),
        overrides={"output_dir": str(tmp_path / "one"), "learning_rate": learning_rate, "max_steps": 1},
    )
    trainer.train()
    later = build(trainer.model, overrides={"output_dir": str(tmp_path / "two"), "learning_rate": learning_rate})
    with torch.no_grad():
        moved = {name: parameter for name, parameter in later.model.named_parameters() if "lora_B.ref." in name}
        assert all(0 < parameter.abs().max() < 1.1 * learning_rate for parameter in moved.values())
        for parameter in moved.values():
            parameter.zero_()
    with refused(OpponentError, "`check_opponent: false`"):
        later.train()
