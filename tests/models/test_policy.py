"""A policy is loaded the same way in every phase, unsafe files are never loaded, and its files are checked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from adapted import IDS, LORA, adapted, scores, settings
from messages import refused
from spin_trl.errors import DataError
from spin_trl.models import policy
from spin_trl.models.adapters import is_adapter
from spin_trl.models.policy import keep_differentiable, load_policy, load_tokenizer, merge_adapter

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_whole_weights_and_adapters_load_by_folder(llama_folder: Path, tmp_path: Path) -> None:
    """A folder of weights is loaded unchanged, a folder with an adapter together with its base."""
    model = adapted(llama_folder)
    model.save_pretrained(tmp_path / "adapter")
    assert not is_adapter(llama_folder)
    assert is_adapter(tmp_path / "adapter")
    plain = load_policy(llama_folder, settings())
    torch.testing.assert_close(scores(plain), scores(AutoModelForCausalLM.from_pretrained(llama_folder)))
    for trainable in (False, True):
        loaded = load_policy(tmp_path / "adapter", settings(), trainable=trainable)
        torch.testing.assert_close(scores(loaded), scores(model))
        learning = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert bool(learning) is trainable
        assert all("lora_" in name for name in learning)


def test_settings_reach_the_model(llama_folder: Path) -> None:
    """`model_init_kwargs` are used for every load."""
    assert load_policy(llama_folder, settings(model_init_kwargs={"dtype": "bfloat16"})).dtype == torch.bfloat16
    quantized = load_policy(llama_folder, settings(), BitsAndBytesConfig(**NF4))
    assert quantized.is_loaded_in_4bit


def test_quantised_weights_are_loaded_to_the_device_of_the_process(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would put them on a GPU if there is one, even with `use_cpu`; others are moved later."""
    asked: list[Any] = []
    load = policy.create_model_from_path

    def spy(path: str, **kwargs: Any) -> Any:
        asked.append(kwargs["device_map"])
        return load(path, **kwargs)

    monkeypatch.setattr(policy, "create_model_from_path", spy)
    quantized = load_policy(llama_folder, settings(), BitsAndBytesConfig(**NF4))
    load_policy(llama_folder, settings())
    assert asked == [{"": torch.device("cpu")}, None]
    assert {parameter.device.type for parameter in quantized.parameters()} == {"cpu"}


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """It is neither a folder nor a Hub name: the message has the name and the reason, without a traceback."""
    with refused(DataError, "'no-such/model'"):
        load_policy("no-such/model", settings())
    with refused(DataError, f"'{tmp_path}'"):
        load_policy(tmp_path, settings())
    with refused(DataError, "tokenizer", f"'{tmp_path / 'missing'}'"):
        load_tokenizer(tmp_path / "missing", settings())


def test_only_safetensors_are_loaded(llama_folder: Path, tmp_path: Path) -> None:
    """A folder with only a pickle (pytorch_model.bin) is refused: unpickling runs any code in it."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    tiny.tokenizer().save_pretrained(tmp_path)
    with refused(DataError, f"'{tmp_path}'", "safetensors", "pytorch_model.bin"):
        load_policy(tmp_path, settings())


def _no_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": None}), encoding="utf-8")


def _cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"xx")


def _cut_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize("damage", [_no_architecture, _cut_weights, _cut_config])
def test_a_damaged_model_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """For any damage to a folder, the message has its name."""
    folder = tiny.save(tmp_path / "model")
    damage(folder)
    with refused(DataError, f"'{folder}'") as failure:
        load_policy(folder, settings())
    assert str(failure.value).partition(": ")[2], "the reason"


def test_an_adapter_that_is_a_pickle_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    """The same holds for adapters (adapter_model.bin)."""
    adapted(llama_folder).save_pretrained(tmp_path, safe_serialization=False)
    model = adapted(llama_folder)
    if not (tmp_path / "adapter_model.bin").exists():  # peft may have stopped writing them; it still reads them
        (tmp_path / "adapter_model.safetensors").unlink()
        tensors = {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}
        torch.save({name.replace(".default", ""): t for name, t in tensors.items()}, tmp_path / "adapter_model.bin")
    with refused(DataError, f"'{tmp_path}'", "safetensors", "pickles"):
        load_policy(tmp_path, settings())


def remote_code(folder: Path, marker: Path) -> Path:
    """Return a model folder whose own Python code leaves a trace when it is run."""
    tiny.save(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "marked"
    config["auto_map"] = {"AutoConfig": "marked.MarkedConfig", "AutoModelForCausalLM": "marked.MarkedModel"}
    config["architectures"] = ["MarkedModel"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "marked.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MarkedConfig(LlamaConfig):\n    model_type = 'marked'\n"
        "class MarkedModel(LlamaForCausalLM):\n    config_class = MarkedConfig\n",
        encoding="utf-8",
    )
    return folder


def test_a_models_own_code_is_not_run_unless_asked_for(tmp_path: Path) -> None:
    """`trust_remote_code` is off by default: such a model is refused and its code not run; with it, the model loads."""
    marker = tmp_path / "code-was-run"
    folder = remote_code(tmp_path / "model", marker)
    with refused(DataError, f"'{folder}'", "trust_remote_code"):
        load_policy(folder, settings())
    assert not marker.exists()
    assert type(load_policy(folder, settings(trust_remote_code=True))).__name__ == "MarkedModel"
    assert marker.exists()


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_pad_token_pads_with_eos(tmp_path: Path) -> None:
    """TRL does the same; a tokenizer without EOS is refused, because no response would ever end."""
    tiny.save(tmp_path / "a", processing_class=tiny.tokenizer(pad_token=None))
    loaded = load_tokenizer(tmp_path / "a", settings())
    assert loaded.pad_token == loaded.eos_token == tiny.IM_END
    tiny.save(tmp_path / "b", processing_class=tiny.tokenizer(eos_token=None))
    with refused(DataError, f"'{tmp_path / 'b'}'", "EOS", "`eos_token`"):
        load_tokenizer(tmp_path / "b", settings())


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_a_merged_adapter_speaks_as_before_and_needs_no_base(llama_folder: Path, tmp_path: Path) -> None:
    """The folder then holds full weights in safetensors, and nothing of the adapter."""
    model = adapted(llama_folder)
    model.save_pretrained(tmp_path)
    merge_adapter(tmp_path, settings())
    assert not list(tmp_path.glob("adapter*"))
    assert list(tmp_path.glob("*.safetensors"))
    assert not is_adapter(tmp_path)
    torch.testing.assert_close(
        scores(AutoModelForCausalLM.from_pretrained(tmp_path)), scores(model), rtol=1e-4, atol=1e-4
    )


# ---- 4 bits ---------------------------------------------------------------------------------------------------------


def test_4_bit_weights_keep_their_gradient_after_an_evaluation(tmp_path: Path) -> None:
    """bitsandbytes repacks them for inference on some CPUs, without gradient, so an adapter would learn nothing."""
    folder = tiny.save(tmp_path, tiny.model(hidden_size=64, intermediate_size=128, head_dim=32))
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**NF4))
    scores(base)  # repacked here, if the CPU supports it
    model = get_peft_model(base, LoraConfig(**LORA))
    keep_differentiable(model)
    scores(model)
    model.train()(IDS, labels=IDS).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}
    assert gradients
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


# ---- steps that are too small for the weights' format -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "warns"),
    [
        ("bfloat16", 5e-7, True),
        ("bfloat16", 2e-5, True),
        ("bfloat16", 1e-3, False),
        ("float16", 5e-7, True),
        ("float16", 2e-5, False),
        ("float32", 5e-7, False),
    ],
)
def test_steps_that_bfloat16_would_swallow_are_warned_of(dtype: str, learning_rate: float, warns: bool) -> None:
    """With the papers' step sizes, bfloat16 weights don't move at all, while float32 weights do."""
    model = tiny.model(dtype=getattr(torch, dtype))
    assert (policy.lost_steps(model, learning_rate) is not None) == warns
    weight = torch.full((100,), 0.02, dtype=getattr(torch, dtype))
    moved = weight - learning_rate * torch.ones_like(weight)
    assert torch.equal(moved, weight) == warns


def test_frozen_weights_may_be_coarse() -> None:
    """With LoRA, the base model does not change."""
    model = tiny.model(dtype=torch.bfloat16).requires_grad_(False)
    assert policy.lost_steps(model, 5e-7) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 3}', "null"])
def test_a_damaged_tokenizer_is_named(content: str, tmp_path: Path) -> None:
    """The message covers any error of a tokenizer, some of which are plain `Exception`."""
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with refused(DataError, str(tmp_path)):
        load_tokenizer(tmp_path, settings())


def test_a_tokenizer_that_loads_but_fails_when_it_is_used_is_named(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    say(tmp_path, "tokenizer_config.json", model_max_length=[64])
    with refused(DataError, str(tmp_path)):
        load_tokenizer(tmp_path, settings())


def test_an_id_that_no_vocabulary_is_large_enough_for_is_refused(tmp_path: Path) -> None:
    """`tokenizers` would allocate memory for all ids below it, and end the process."""
    tiny.tokenizer().save_pretrained(tmp_path)
    said = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    token = list(said["model"]["vocab"])[-1]
    said["model"]["vocab"][token] = 2**32 - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    with refused(DataError, str(tmp_path), 2**32 - 1, repr(token)):
        load_tokenizer(tmp_path, settings())


# ---- files that are damaged, missing, or another model's ---------------------------------------------------------------


@pytest.fixture
def damaged(llama_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a model, to be damaged."""
    return Path(shutil.copytree(llama_folder, tmp_path / "damaged"))


def say(folder: Path, name: str, **says: Any) -> None:
    """Change a value in a JSON file."""
    known = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**known, **says}), encoding="utf-8")


def test_weights_that_no_file_has_are_not_made_up(damaged: Path) -> None:
    """transformers would fill them with random numbers, and only warn."""
    weights = load_file(damaged / "model.safetensors")
    missing = "model.layers.0.self_attn.q_proj.weight"
    save_file({name: weight for name, weight in weights.items() if name != missing}, damaged / "model.safetensors")
    with refused(DataError, damaged, missing, "config.json", 1):
        load_policy(damaged, settings())
    save_file({f"module.{name}": weight for name, weight in weights.items()}, damaged / "model.safetensors")
    with refused(DataError, damaged, len(weights)):
        load_policy(damaged, settings())


def test_weights_of_another_shape_are_named_with_both_shapes(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    name = "model.norm.weight"
    size = len(weights[name])
    save_file(weights | {name: weights[name][:-1].clone()}, damaged / "model.safetensors")
    with refused(DataError, damaged, name, f"({size - 1},)", f"({size},)"):
        load_policy(damaged, settings())


def test_layers_without_weights_are_refused_before_they_are_built(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(load_file(damaged / "model.safetensors"))
    say(damaged, "config.json", num_hidden_layers=10_000)
    monkeypatch.setattr(policy, "create_model_from_path", lambda *_, **__: pytest.fail("10,000 layers were built"))
    with refused(DataError, damaged, "`num_hidden_layers`", "10,000", count):
        load_policy(damaged, settings())


@pytest.mark.parametrize("value", [-1, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(damaged: Path, value: float) -> None:
    """Otherwise attention would refuse it in the first training step."""
    say(damaged, "config.json", attention_dropout=value)
    with refused(DataError, "`attention_dropout`", value):
        load_policy(damaged, settings())


def test_an_adapters_weights_that_its_file_lacks_are_not_made_up(llama_folder: Path, tmp_path: Path) -> None:
    adapted(llama_folder).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)
    with refused(DataError, tmp_path / "adapter", "adapter_config.json"):
        load_policy(tmp_path / "adapter", settings())


@pytest.mark.parametrize(
    "says",
    [
        {"vocab_size": -0.0},
        {"num_attention_heads": 0},
        {"num_hidden_layers": "a"},
        {"architectures": None},
        {"rope_parameters": 3},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"dtype": "float33"},
    ],
    ids=lambda says: next(iter(says)),
)
def test_whatever_a_configuration_makes_libraries_raise_is_a_message(damaged: Path, says: dict[str, Any]) -> None:
    say(damaged, "config.json", **says)
    with refused(DataError, damaged):
        load_policy(damaged, settings())


@pytest.mark.parametrize("how", ["load_in_4bit", "load_in_8bit"])
def test_weights_that_are_not_quantised_as_config_json_says_are_refused(damaged: Path, how: str) -> None:
    """transformers leaves them unconverted in bitsandbytes' layers, whose first forward then fails."""
    say(damaged, "config.json", quantization_config={how: True})
    with refused(DataError, damaged, "config.json", "quantization_config", "q_proj.weight"):
        load_policy(damaged, settings())


def test_errors_of_the_machine_are_not_the_models(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More memory, or another GPU, would help."""
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")):

        def fail(*_: Any, raised: Exception = error, **__: Any) -> Any:
            raise raised

        monkeypatch.setattr(policy, "create_model_from_path", fail)
        with pytest.raises(type(error)):
            load_policy(llama_folder, settings())
