"""Adapters are created from a recipe's settings, and unsuitable new adapters and starts are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import ModelConfig

import tiny
from messages import names, refused
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig, SPINTrainer
from spin_trl.errors import DataError, RecipeError
from spin_trl.models.adapters import adapter_refusals, base_of, peft_config_of
from spin_trl.models.policy import load_policy, load_tokenizer, merge_adapter

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
IDS = torch.arange(5, 25).unsqueeze(0)


def settings(**overrides: Any) -> SPINConfig:
    """Return settings for a CPU."""
    return SPINConfig(**{"output_dir": "out", "use_cpu": True, "bf16": False, **overrides})


def scores(model: Any) -> torch.Tensor:
    """Return a model's logits."""
    with torch.no_grad():
        return model.eval()(IDS).logits


def trained(model: Any, **lora: Any) -> Any:
    """Return a model with an adapter whose tensors have all moved."""
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(**{**LORA, **lora}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


# ---- settings of a recipe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "adapted"),
    [
        (["q_proj"], {"q_proj"}),
        ("q_proj", {"q_proj"}),
        (["self_attn.q_proj"], {"q_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["all-linear"], {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ([r".*layers\.0\..*\.(q|k)_proj"], {"q_proj", "k_proj"}),
    ],
)
def test_lora_target_modules_are_adapted(modules: Any, adapted: set[str]) -> None:
    """A single name in a list is a name; a regular expression stays one."""
    config = peft_config_of(ModelConfig(use_peft=True, lora_r=2, lora_target_modules=modules))
    model = get_peft_model(tiny.model(), config)
    assert {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name
    } == (adapted)


def test_one_module_to_save_is_a_module() -> None:
    """It is not a list of letters."""
    for value in ("lm_head", ["lm_head"]):
        found = peft_config_of(ModelConfig(use_peft=True, lora_target_modules=["q_proj"], lora_modules_to_save=value))
        assert found is not None
        assert found.modules_to_save == ["lm_head"]
        found = peft_config_of(ModelConfig(use_peft=True, lora_target_parameters=value))
        assert found is not None
        assert found.target_parameters == ["lm_head"]
    assert peft_config_of(ModelConfig()) is None


# ---- new adapters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
        ({"init_lora_weights": "OLoRA"}, "OLoRA"),
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "eva"}, "EVA"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "LoftQ"),
        ({"init_lora_weights": False}, "`init_lora_weights: false`"),
        ({"bias": "all"}, "`bias: all`"),
        ({"target_modules": ["q_proj", "lm_head"]}, "`target_modules`"),
        ({"target_modules": r".*(q_proj|lm_head)|lm_head"}, "`target_modules`"),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, "`target_modules`"),
        ({"inference_mode": True}, "inference_mode"),
        ({"task_type": "SEQ_CLS"}, "`task_type: CAUSAL_LM`"),
    ],
)
def test_what_would_not_start_at_the_opponent_is_refused_by_name(config: dict[str, Any], part: str) -> None:
    """Each has a reason that the user can act on."""
    (reason,) = adapter_refusals(LoraConfig(**{**LORA, **config}))
    assert names(reason, part)


def test_all_reasons_are_said_together() -> None:
    found = [*adapter_refusals(LoraConfig(**{**LORA, "init_lora_weights": "pissa", "bias": "all"}))]
    assert len(found) == 2


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
    ],
)
def test_methods_whose_start_says_something_are_refused(config: Any) -> None:
    assert len([*adapter_refusals(config)]) == 1


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "mica"])
def test_what_adds_nothing_is_played(init: Any) -> None:
    """These leave the base model unchanged, and start at zero."""
    config = LoraConfig(**LORA, init_lora_weights=init)
    assert [*adapter_refusals(config)] == []
    plain = scores(tiny.model())
    torch.testing.assert_close(scores(get_peft_model(tiny.model(), config)), plain)


def test_trainer_and_loop_refuse_before_anything_runs(llama_folder: Path, tmp_path: Path) -> None:
    """The caller's model is not touched, and no run directory is created."""
    config = LoraConfig(**LORA, init_lora_weights="pissa")
    model = tiny.model()
    before = scores(model)
    with refused(RecipeError, "`init_lora_weights: pissa`", "PiSSA"):
        SPINTrainer(
            model,
            args=settings(output_dir=str(tmp_path / "trainer")),
            train_dataset=tiny.sft(4),
            processing_class=tiny.tokenizer(),
            peft_config=config,
        )
    assert torch.equal(scores(model), before)
    with refused(RecipeError, "`init_lora_weights: pissa`", "PiSSA"):
        SelfPlay(
            str(llama_folder),
            settings(output_dir=str(tmp_path / "run")),
            SelfPlayConfig(),
            tiny.sft(4),
            peft_config=config,
        ).run()
    assert not (tmp_path / "run").exists()


# ---- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_of_pissa_or_olora_is_loaded_as_it_was_saved(init: str, tmp_path: Path) -> None:
    """PEFT subtracts the first matrices from the base at every load; loading twice gives the same."""
    base = tiny.save(tmp_path / "base")
    model = trained(AutoModelForCausalLM.from_pretrained(base), init_lora_weights=init)
    model.save_pretrained(tmp_path / "sft")
    for _ in range(2):
        torch.testing.assert_close(
            scores(load_policy(tmp_path / "sft", settings())), scores(model), rtol=1e-3, atol=1e-3
        )


def test_a_start_that_can_not_be_loaded_twice_is_refused(tmp_path: Path) -> None:
    """Its base would be different at every load."""
    base = tiny.save(tmp_path / "base")
    model = trained(AutoModelForCausalLM.from_pretrained(base), init_lora_weights="pissa_niter_4")
    model.save_pretrained(tmp_path / "sft")
    with refused(DataError, tmp_path / "sft", "`init_lora_weights: pissa_niter_4`"):
        load_policy(tmp_path / "sft", settings())


def test_an_adapter_without_tokenizer_files_has_its_bases(tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base")
    trained(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(tmp_path / "sft")
    assert load_tokenizer(tmp_path / "sft", settings()).get_vocab() == tiny.tokenizer().get_vocab()
    other = tiny.tokenizer()
    other.add_tokens(["<|think|>"])
    other.save_pretrained(tmp_path / "sft")
    assert "<|think|>" in load_tokenizer(tmp_path / "sft", settings()).get_vocab()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{", ("JSONDecodeError",)),
        ('{"peft_type": "A_NEWER_KIND"}', ("KeyError", "A_NEWER_KIND")),
        ('{"peft_type": "LORA"}', ("`base_model_name_or_path`",)),
        (
            '{"peft_type": "LORA", "base_model_name_or_path": "/nowhere/base"}',
            ("'/nowhere/base'",),
        ),
    ],
)
def test_what_is_wrong_with_an_adapters_configuration_is_said(
    text: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Adapters come from other machines, and name paths there."""
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").touch()
    with refused(DataError, tmp_path / "adapter_config.json", *parts):
        load_policy(tmp_path, settings())


def resized(folder: Path, tied: bool, **lora: Any) -> Any:
    """Return an adapter trained after two tokens were added to its base model."""
    tiny.save(folder / "base", tiny.model(tie_word_embeddings=tied))
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    base.resize_token_embeddings(len(tiny.tokenizer()) + 2, mean_resizing=False)
    model = trained(base, **lora)
    with torch.no_grad():
        model.get_input_embeddings().weight[-2:] += 1
    model.save_pretrained(folder / "sft")
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "lora", [{}, {"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}]
)
def test_the_base_gets_the_size_that_its_adapter_says(lora: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    """The embeddings may have been saved with the adapter, adapted, or trained whole."""
    if "target_modules" in lora and not tied:
        pytest.skip("PEFT does not save the output layer then, which the next test is about")
    model = resized(tmp_path, tied, **lora)
    for trainable in (False, True):
        loaded = load_policy(tmp_path / "sft", settings(), trainable=trainable)
        assert loaded.get_input_embeddings().weight.shape[0] == len(tiny.tokenizer()) + 2
        torch.testing.assert_close(scores(loaded), scores(model))


def test_rows_that_no_file_has_are_not_made_up(tmp_path: Path) -> None:
    """PEFT omits a resized output layer if the input embeddings are adapted, so its new rows would be random."""
    resized(tmp_path, tied=False, target_modules=["q_proj", "embed_tokens"])
    before = len(tiny.tokenizer())
    with refused(DataError, tmp_path / "sft", "input", before + 2, before, "output", "`modules_to_save`"):
        load_policy(tmp_path / "sft", settings())


def test_an_adapter_of_another_shape_is_refused_with_both(tmp_path: Path) -> None:
    """There is no traceback."""
    resized(tmp_path, tied=False)
    tiny.save(tmp_path / "wide", tiny.model(hidden_size=32))
    config = json.loads((tmp_path / "sft" / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(tmp_path / "wide")
    (tmp_path / "sft" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with refused(DataError, f"adapter '{tmp_path / 'sft'}'", f"'{tmp_path / 'wide'}'", len(tiny.tokenizer())):
        load_policy(tmp_path / "sft", settings())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_a_merged_adapter_says_what_it_said(lora: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    """This includes an output layer that shares weights with embeddings that alone were adapted."""
    if lora.get("ensure_weight_tying") and not tied:
        pytest.skip("nothing is tied")
    tiny.save(tmp_path / "base", tiny.model(tie_word_embeddings=tied))
    model = trained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), **lora)
    model.save_pretrained(tmp_path / "sft")
    merge_adapter(tmp_path / "sft", settings())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    torch.testing.assert_close(scores(merged), scores(model), rtol=1e-4, atol=1e-4)


def test_a_kept_base_is_found_where_the_run_lies_now(tmp_path: Path) -> None:
    """A run directory may be moved."""
    base = tiny.save(tmp_path / "old" / "start" / "base")
    trained(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(tmp_path / "old" / "iteration-0" / "model")
    assert base_of(tmp_path / "old" / "iteration-0" / "model") == str(base)
    (tmp_path / "old").rename(tmp_path / "new")
    assert base_of(tmp_path / "new" / "iteration-0" / "model") == str(tmp_path / "new" / "start" / "base")
