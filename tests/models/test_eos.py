"""The ids that end a response come from all files of a model, and are the same for generation, training and planning."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

import tiny
from messages import refused
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.errors import DataError
from spin_trl.models.eos import eos_ids_of, load_eos_ids
from spin_trl.models.policy import load_policy, load_tokenizer

OWN = tiny.tokenizer().eos_token_id
LORA = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def settings(**overrides: Any) -> SPINConfig:
    """Return settings for a CPU."""
    return SPINConfig(**{"output_dir": "out", "use_cpu": True, "bf16": False, "report_to": "none", **overrides})


def model_that_names(folder: Path, in_config: Any, in_generation_config: Any) -> Path:
    """Return a model whose two files name these ids; with None, the file names none, or is missing."""
    tiny.save(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": in_config}), encoding="utf-8")
    if in_generation_config is None:
        (folder / "generation_config.json").unlink()
    else:
        GenerationConfig(eos_token_id=in_generation_config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("in_config", "in_generation_config", "more"),
    [(None, None, set()), (7, None, {7}), ([7, 8], None, {7, 8}), (None, 9, {9}), (7, [8, 9], {7, 8, 9})],
)
def test_all_files_count(in_config: Any, in_generation_config: Any, more: set[int], tmp_path: Path) -> None:
    """They count when given a path, and for the model that was loaded from there."""
    folder = model_that_names(tmp_path, in_config, in_generation_config)
    expected = sorted({OWN, *more})
    assert load_eos_ids(str(folder), settings(), tiny.tokenizer()) == expected
    assert eos_ids_of(load_policy(folder, settings()), tiny.tokenizer()) == expected


def test_an_adapter_has_its_bases_and_its_own(tmp_path: Path) -> None:
    """There are several in the base's files (as in Qwen2.5, Llama 3 and Gemma 3), and one with the adapter."""
    base = model_that_names(tmp_path / "base", 7, [OWN, 8])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA)).save_pretrained(tmp_path / "sft")
    for own, expected in ((None, {OWN, 7, 8}), (9, {OWN, 7, 8, 9})):
        if own is not None:
            GenerationConfig(eos_token_id=own).save_pretrained(tmp_path / "sft")
        assert load_eos_ids(str(tmp_path / "sft"), settings(), tiny.tokenizer()) == sorted(expected)
        assert eos_ids_of(load_policy(tmp_path / "sft", settings()), tiny.tokenizer()) == sorted(expected)


def test_a_model_on_the_hub_is_asked_as_a_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is not a folder."""
    cache = tmp_path / "models--org--name"
    model_that_names(cache / "snapshots" / ("0" * 40), 7, [8])
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    found = load_eos_ids("org/name", settings(model_init_kwargs={"revision": "main"}), tiny.tokenizer())
    assert found == sorted({OWN, 7, 8})


@pytest.mark.parametrize("peft", [False, True])
def test_training_loses_none(peft: bool, tmp_path: Path) -> None:
    """Trainer replaces the configuration's EOS with the tokenizer's; the saved model still names all of them."""
    folder = model_that_names(tmp_path / "start", 7, None)
    expected = sorted({OWN, 7})
    trainer = SPINTrainer(
        str(folder),
        args=settings(output_dir=str(tmp_path / "out"), max_length=64, max_new_tokens=4, max_steps=1),
        train_dataset=tiny.sft(4),
        processing_class=tiny.tokenizer(),
        peft_config=LoraConfig(**LORA) if peft else None,
    )
    assert set(trainer.pair_template.eos_ids) >= set(expected)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert load_eos_ids(str(tmp_path / "model"), settings(), tiny.tokenizer()) == expected
    assert eos_ids_of(load_policy(tmp_path / "model", settings()), tiny.tokenizer()) == expected


def test_a_run_of_version_0_1_0_goes_on_with_the_ids_that_it_knew(tmp_path: Path) -> None:
    """That version only read `generation_config.json`."""
    folder = model_that_names(tmp_path, 7, [8])
    assert load_eos_ids(str(folder), settings(), tiny.tokenizer(), definition=1) == sorted({OWN, 8})
    assert load_eos_ids(None, settings(), tiny.tokenizer()) == [OWN]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 5_000,
        "3",
        '{"eos_token_id": "a"}',
        '{"eos_token_id": [[1]]}',
        '{"eos_token_id": 18446744073709551616}',
    ],
    ids=range(6),
)
def test_what_names_the_ids_is_not_passed_over_where_it_is_damaged(
    llama_folder: Path, tmp_path: Path, content: str
) -> None:
    """transformers ignores the damage, and responses would not end where they should."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text(content, encoding="utf-8")
    with refused(DataError):
        load_eos_ids(str(folder), settings(), load_tokenizer(folder, settings()))
