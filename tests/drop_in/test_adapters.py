"""With PEFT and 4-bit weights, the same is trained, frozen, used as the reference, and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from drop_in.compare import Kind, same_metrics, same_weights, steps, train_both, unchanged, weights

pytestmark = pytest.mark.numeric

LN2 = pytest.approx(0.6931472, abs=1e-5)
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
EXPERTS = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


def adapted(folder: Path, seed: int = 7, **overrides: Any) -> PeftModel:
    """Return the tiny Llama with a LoRA adapter that has been trained: its B is not zero."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**{**LORA, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model


def frozen(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    """Return the kinds of parameters that did not change: `base`, `default` (the adapter), `ref` (its frozen copy)."""
    kinds = {name: sort(name) for name in before}
    stuck = unchanged(before, model)
    assert all(len({name in stuck for name in before if kinds[name] == kind}) == 1 for kind in set(kinds.values()))
    return {kinds[name] for name in stuck}


def sort(name: str) -> str:
    """Return the kind that a parameter belongs to."""
    return "ref" if ".ref." in name else "default" if ".default" in name else "base"


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {}),
        ("llama", {"use_dora": True}),
        ("llama", {"modules_to_save": ["embed_tokens"]}),
        ("gpt2", {"target_modules": ["c_attn"]}),
        ("lfm2", {"target_modules": "all-linear"}),
        ("mixtral", {}),
        (
            "qwen3_moe",
            {"target_modules": [], "target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]},
        ),
    ],
    ids=["dense", "dora", "embeddings", "gpt2", "hybrid", "mixture", "experts"],
)
@pytest.mark.slow
def test_a_new_adapter_learns_and_its_base_does_not(architecture: str, config: dict[str, Any], folder: str) -> None:
    """The reference is the model without the adapter, so there is no second model and the first loss is ln 2."""
    path = tiny.save(f"{folder}/start", tiny.model(architecture))
    before: list[dict[str, torch.Tensor]] = []

    def build(kind: Kind) -> Any:
        peft_config = LoraConfig(**{**LORA, **config})
        trainer = kind.build(
            str(path), settings={"learning_rate": 1.0}, train_dataset=tiny.preference(6), peft_config=peft_config
        )
        before.append(weights(trainer.model))
        return trainer

    _, spin = train_both(folder, build)
    assert isinstance(spin.model, PeftModel)
    assert spin.ref_model is None
    assert frozen(before[1], spin.model) == {"base"}
    assert steps(spin)[0] - spin.router_aux_loss_coef * sum(steps(spin, "aux_loss")[:1]) == LN2
    assert abs(steps(spin, "rewards/margins")[2]) > 1e-4


@pytest.mark.parametrize("overrides", [{}, {"modules_to_save": ["embed_tokens"]}], ids=["lora", "embeddings"])
@pytest.mark.slow
def test_an_adapter_that_was_trained_before_is_its_own_reference(
    overrides: dict[str, Any], folder: str, llama_folder: Path
) -> None:
    """A PeftModel is trained further; the reference is a frozen copy of the adapter as passed, not the bare base model."""
    before: list[dict[str, torch.Tensor]] = []

    def build(kind: Kind) -> Any:
        model = adapted(llama_folder, **overrides)
        trainer = kind.build(
            model, settings={"learning_rate": 1.0}, train_dataset=tiny.preference(6), processing_class=tiny.tokenizer()
        )
        before.append(weights(model))
        return trainer

    _, spin = train_both(folder, build)
    assert set(spin.model.peft_config) == {"default", "ref"}
    assert spin.model.active_adapters == ["default"]
    assert frozen(before[1], spin.model) == {"base", "ref"}
    for name, parameter in before[1].items():
        if sort(name) == "ref":
            assert torch.equal(parameter, before[1][name.replace(".ref.", ".default.")])
    assert steps(spin)[0] == LN2
    assert not any(parameter.requires_grad for name, parameter in spin.model.named_parameters() if sort(name) == "ref")


@pytest.mark.slow
@pytest.mark.parametrize("as_config", [True, False], ids=["config", "model"])
def test_gradient_checkpointing_changes_no_number(as_config: bool, folder: str, llama_folder: Path) -> None:
    """Recomputed activations give the adapter the same gradients as stored ones."""
    runs = []
    for checkpointing in (False, True):

        def build(kind: Kind, checkpointing: bool = checkpointing) -> Any:
            return kind.build(
                str(llama_folder) if as_config else adapted(llama_folder),
                settings={"gradient_checkpointing": checkpointing, "learning_rate": 1.0},
                train_dataset=tiny.preference(6),
                processing_class=tiny.tokenizer(),
                peft_config=LoraConfig(**LORA) if as_config else None,
            )

        runs.append(train_both(f"{folder}/{checkpointing}", build)[1])
    assert steps(runs[1]) == pytest.approx(steps(runs[0]), abs=1e-5)
    same_weights(runs[0].model, runs[1].model)


def test_an_explicit_reference_beside_an_adapter(folder: str, llama_folder: Path) -> None:
    """`ref_model` is used unchanged, and no frozen adapter is created."""
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            adapted(llama_folder),
            ref_model=tiny.model(seed=1),
            train_dataset=tiny.preference(6),
            processing_class=tiny.tokenizer(),
        ),
    )
    assert set(spin.model.peft_config) == set(dpo.model.peft_config) == {"default"}
    assert abs(steps(spin, "rewards/chosen")[0]) > 1e-2


@pytest.mark.parametrize("name", ["ref", "other"])
def test_adapters_that_are_not_trained_stay(name: str, kind: Kind, llama_folder: Path) -> None:
    """With an explicit reference, every adapter of the model is still there afterwards, whatever its name."""
    model = adapted(llama_folder)
    model.add_adapter(name, LoraConfig(**LORA))
    trainer = kind.build(
        model,
        ref_model=tiny.model(seed=1),
        settings={"learning_rate": 1.0},
        train_dataset=tiny.preference(6),
        processing_class=tiny.tokenizer(),
    )
    before = {key: value for key, value in weights(model).items() if f".{name}." in key}
    trainer.train()
    assert set(trainer.model.peft_config) == {"default", name}
    assert before
    assert all(torch.equal(trainer.model.get_parameter(key), value) for key, value in before.items())


@pytest.mark.parametrize("as_config", [True, False], ids=["config", "model"])
@pytest.mark.slow
def test_precomputing_with_an_adapter(as_config: bool, folder: str, llama_folder: Path) -> None:
    """The reference stays available, so new pairs can also be evaluated after training."""
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(llama_folder) if as_config else adapted(llama_folder),
            settings={"precompute_ref_log_probs": True, "learning_rate": 1.0},
            train_dataset=tiny.preference(6),
            processing_class=tiny.tokenizer(),
            peft_config=LoraConfig(**LORA) if as_config else None,
        ),
    )
    assert steps(spin)[0] == LN2
    found = spin.evaluate(tiny.preference(3, conversational=True))
    same_metrics(dpo.evaluate(tiny.preference(3, conversational=True)), found)
    assert abs(found["eval_rewards/margins"]) > 1e-4


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4),
        PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4),
    ],
    ids=["prompt", "prefix"],
)
def test_prompt_learning_trains_alike(config: PeftConfig, folder: str, llama_folder: Path) -> None:
    """Virtual tokens before the prompt leave the log-probs of the real ones in their places."""
    _, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(llama_folder), settings={"learning_rate": 1.0}, train_dataset=tiny.preference(6), peft_config=config
        ),
    )
    assert len(set(steps(spin))) == 3


def test_the_adapter_is_saved(folder: str, llama_folder: Path) -> None:
    """`save_model` and checkpoints hold the trained adapter and no other; it loads onto the base."""
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            adapted(llama_folder),
            settings={"save_strategy": "steps", "save_steps": 3, "learning_rate": 1.0},
            train_dataset=tiny.preference(6),
            processing_class=tiny.tokenizer(),
        ),
    )
    for trainer in (dpo, spin):
        trainer.save_model(f"{trainer.args.output_dir}/final")
        assert set(trainer.model.peft_config) == {"default", "ref"}
    for name in ("checkpoint-3", "final"):
        expected, found = (
            load_file(f"{trainer.args.output_dir}/{name}/adapter_model.safetensors") for trainer in (dpo, spin)
        )
        assert found.keys() == expected.keys() != set()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor)
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    loaded = PeftModel.from_pretrained(base, f"{spin.args.output_dir}/final").eval()
    ids = torch.arange(5, 25).unsqueeze(0)
    torch.testing.assert_close(loaded(ids).logits, spin.model.eval()(ids).logits)


def on_4_bit_weights(kind: Kind, loaded: bool, folder: Path, learning_rate: float = 1.0) -> Any:
    """Return a trainer of a new adapter on the tiny Llama in NF4, which the trainer, or the test, has loaded."""
    quantization = BitsAndBytesConfig(**NF4)
    model: Any = str(folder)
    if loaded:
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization)
    trainer = kind.build(
        model,
        settings={"learning_rate": learning_rate, "max_grad_norm": 0},
        train_dataset=tiny.preference(6),
        peft_config=LoraConfig(**LORA),
        quantization_config=None if loaded else quantization,
    )
    assert trainer.model.is_loaded_in_4bit
    assert {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad} == {torch.bfloat16}
    return trainer


def in_float32(trainer: Any) -> Any:
    """Return the trainer with its adapter in float32, where rounding errors don't grow from step to step."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


@pytest.mark.parametrize("loaded", [False, True], ids=["by id", "loaded"])
@pytest.mark.slow
def test_an_adapter_on_4_bit_weights(loaded: bool, folder: str, llama_folder: Path) -> None:
    """With QLoRA, the quantised weights don't change, the adapter moves, and the reference is the quantised model."""
    before: list[dict[str, torch.Tensor]] = []

    def build(kind: Kind) -> Any:
        trainer = in_float32(on_4_bit_weights(kind, loaded, llama_folder))
        before.append(weights(trainer.model))
        return trainer

    _, spin = train_both(folder, build)
    assert frozen(before[1], spin.model) == {"base"}
    assert steps(spin)[0] == LN2
    assert abs(steps(spin, "rewards/margins")[2]) > 1e-3


@pytest.mark.parametrize("loaded", [False, True], ids=["by id", "loaded"])
@pytest.mark.slow
def test_a_rounded_adapter_on_4_bit_weights(loaded: bool, kind: Kind, llama_folder: Path) -> None:
    """In bfloat16, TRL's choice, the adapter moves too; its first gradient is that in float32, up to rounding."""
    exact = in_float32(on_4_bit_weights(kind, loaded, llama_folder))
    rounded = on_4_bit_weights(kind, loaded, llama_folder, learning_rate=20.0)  # bfloat16 swallows smaller steps
    before = weights(rounded.model)
    for trainer in (exact, rounded):
        trainer.train()
    assert frozen(before, rounded.model) == {"base"}
    assert steps(rounded)[0] == LN2
    assert steps(rounded, "grad_norm")[0] == pytest.approx(steps(exact, "grad_norm")[0], rel=0.05)


def test_what_peft_can_not_do_is_refused(kind: Kind, llama_folder: Path) -> None:
    """The messages are DPOTrainer's."""
    data = tiny.preference(2)
    text = tiny.tokenizer()
    with pytest.raises(ValueError, match="passed a `PeftModel` instance together with a `peft_config`"):
        kind.build(adapted(llama_folder), train_dataset=data, processing_class=text, peft_config=LoraConfig(**LORA))
    with pytest.raises(TypeError, match=r"`peft_config` must be a `peft.PeftConfig` instance .*, got dict"):
        kind.build(str(llama_folder), train_dataset=data, peft_config={"r": 4})
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        kind.build(
            str(llama_folder), train_dataset=data, peft_config=LoraConfig(**{**LORA, "target_modules": ["lm_head"]})
        )
    with pytest.raises(NotImplementedError, match="`sync_ref_model=True` while using a PEFT model"):
        kind.build(
            str(llama_folder), settings={"sync_ref_model": True}, train_dataset=data, peft_config=LoraConfig(**LORA)
        )


def test_what_quantization_can_not_do_is_refused(kind: Kind, llama_folder: Path) -> None:
    """A model in memory can no longer be quantised, and only one configuration is allowed."""
    data, quantization = tiny.preference(2), BitsAndBytesConfig(**NF4)
    with pytest.raises(ValueError, match="`quantization_config` to the trainer, but your model is already instant"):
        kind.build(
            tiny.model(), train_dataset=data, processing_class=tiny.tokenizer(), quantization_config=quantization
        )
    with pytest.raises(ValueError, match=r"both as a trainer argument and in `args.model_init_kwargs`"):
        kind.build(
            str(llama_folder),
            settings={"model_init_kwargs": {"quantization_config": quantization}},
            train_dataset=data,
            quantization_config=quantization,
        )
