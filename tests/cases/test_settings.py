"""Cases in which a setting did something other than documented, or was refused late: it is played, or refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open

import tiny
from cases.playing import Command, adapter, chats, play, write_recipe
from messages import names, refused
from runs import build, entry
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.errors import RecipeError

SIZE = len(tiny.tokenizer())


def refusal(command: Command, recipe: str) -> str:
    """Return the message of `run` when it refuses a recipe; nothing has been written or generated."""
    said = command("run", recipe)
    assert said.code == 2
    assert "generate:" not in said.text
    assert not Path("runs").exists()
    return said.text


# ---- refused before anything runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq", "corda", "lora_ga", "eva"])
def test_adapters_that_change_their_base_are_refused(init: Any, llama_folder: Path) -> None:
    """Bug class: PiSSA and similar methods rewrite the base, so the model without its adapter is no longer the reference."""
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    config.init_lora_weights = init
    args = SPINConfig("out", use_cpu=True, bf16=False, max_length=64)
    rows = Dataset.from_list(chats())
    with refused(RecipeError, f"`init_lora_weights: {init}`"):
        SPINTrainer(str(llama_folder), args=args, train_dataset=rows, peft_config=config)
    with refused(RecipeError, f"`init_lora_weights: {init}`"):
        build(llama_folder, "run", train_dataset=rows, peft_config=config).run()
    assert not Path("run").exists()


def test_neftune_is_refused_by_name(command: Command, llama_folder: Path) -> None:
    """Bug class: NEFTune's noise is added to the policy alone, and the comparison with the reference is blamed."""
    text = refusal(command, write_recipe("my.yaml", llama_folder, neftune_noise_alpha=5.0))
    assert names(text, "`neftune_noise_alpha`", 5, "noise")


def test_tokens_beyond_the_embeddings_are_named(command: Command, tmp_path: Path) -> None:
    """Bug class: a token was added and the model not resized: `IndexError: index out of range in self` in mid-run."""
    padded, thinking = tiny.tokenizer(pad_token="[PAD]"), tiny.tokenizer()
    thinking.add_special_tokens({"additional_special_tokens": ["<|think|>"]})
    rows = chats()
    for row in rows[3:5]:
        row["messages"][0]["content"] += " <|think|>"
    for name, tokenizer, data, token in (("pad", padded, chats(), "[PAD]"), ("think", thinking, rows, "<|think|>")):
        model = tiny.save(tmp_path / name, processing_class=tokenizer)
        said = command("run", write_recipe(f"{name}.yaml", model, data))
        assert said.code == 2
        sizes = (f"{SIZE + 1} tokens", SIZE, f"ids 0 to {SIZE - 1}")
        assert names(said.text, f"'{token}' (id {SIZE}", *sizes, model)
        assert not list(Path("runs", name).glob("start")) + list(Path("runs", name).glob("iteration-*"))


def test_a_token_among_a_models_settings_is_refused_and_kept_nowhere(command: Command, llama_folder: Path) -> None:
    """Bug class: a token for gated models is pickled into `training_args.bin`, and pushed with the checkpoint."""
    token = "hf_" + "aB3" * 12
    text = refusal(command, write_recipe("my.yaml", llama_folder, model_init_kwargs={"token": token}))
    assert names(text, "`model_init_kwargs.token`", "`HF_TOKEN`", "`hf auth login`")
    assert token not in text


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"eval_strategy": "steps", "eval_steps": 10}, ("`eval_strategy: steps`",)),
        ({"report_to": "wandb"}, ("`report_to`", "'wandb'")),
        ({"report_to": "tensorboard"}, ("`report_to`", "'tensorboard'")),
        ({"per_device_train_batch_size": 64, "dataloader_drop_last": True}, ("`dataloader_drop_last`",)),
        ({"max_length": 513}, ("`max_length`", 513, 512)),
        ({"metric_for_best_iteration": "winrate"}, ("`metric_for_best_iteration`", "'winrate'", "'win_rate'")),
        ({"scorer": "exactmatch"}, ("'exactmatch'", "'exact_match'")),
    ],
)
def test_what_can_not_be_played_is_said_before_answers_are_generated(
    settings: dict[str, Any],
    parts: tuple[object, ...],
    command: Command,
    llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug class: after hours of generation, a trainer refuses a setting which was known from the start."""
    from transformers import integrations

    for tracker in ("wandb", "tensorboard"):
        monkeypatch.setattr(integrations, f"is_{tracker}_available", lambda: False)
    assert names(refusal(command, write_recipe("my.yaml", llama_folder, **settings)), *parts)


# ---- played ----------------------------------------------------------------------------------------------------------


def test_lora_on_8_bit_weights_is_played(command: Command, tmp_path: Path) -> None:
    """Bug class: LLM.int8() rounds by batch, so equal weights give unequal log-probabilities, which a check refuses."""
    model = tiny.save(tmp_path / "model", tiny.model("qwen2", hidden_size=64, intermediate_size=128, head_dim=16))
    settings = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "load_in_8bit": True}
    play(command, write_recipe("my.yaml", model, **settings))
    assert entry("train", "iteration-0", "runs/my")["pairs"]["total"] == 5


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_an_adapter_with_resized_embeddings_is_a_start(has_tokenizer: bool, command: Command, tmp_path: Path) -> None:
    """Bug class: `size mismatch for embed_tokens.weight` if an adapter was trained after tokens had been added."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|think|>"]})
    base = tiny.save(tmp_path / "base", processing_class=tiny.tokenizer() if has_tokenizer else tokenizer)
    larger = tiny.model()
    larger.resize_token_embeddings(len(tokenizer))
    adapter(larger, base).save_pretrained(tmp_path / "sft")
    if has_tokenizer:
        tokenizer.save_pretrained(tmp_path / "sft")
    rows = chats()
    rows[2]["messages"][1]["content"] += "<|think|>"
    play(command, write_recipe("my.yaml", tmp_path / "sft", rows))
    with safe_open("runs/my/iteration-0/model/adapter_model.safetensors", framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys() if "lora" not in name}  # noqa: SIM118
    assert {shape[0] for shape in shapes.values()} == {SIZE + 1}


def test_one_lora_target_module_is_adapted(command: Command, llama_folder: Path) -> None:
    """Bug class: a parser turns a list of one name into that name, which PEFT takes for a regular expression."""
    settings = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj"]}
    play(command, write_recipe("my.yaml", llama_folder, **settings))
    with safe_open("runs/my/iteration-0/model/adapter_model.safetensors", framework="pt") as file:
        adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in file.keys()}  # noqa: SIM118
    assert adapted == {"q_proj"}


def test_a_scorer_with_brackets_and_slashes_does_not_end_a_run(command: Command, llama_folder: Path) -> None:
    """Bug class: a user's text is taken for terminal markup, here `[/-]` for a closing tag."""
    scorer = r"regex:\d+[/-]\d+"
    said = command("run", write_recipe("my.yaml", llama_folder, scorer=scorer))
    assert said.code == 0, said.text
    assert Path("runs/my/report.html").is_file()
    assert command("report", "runs/my").code == 0
