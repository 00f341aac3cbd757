"""The origin of a run's model and data is recorded as Hub names with their commits, without paths of this machine."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard, constants
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import tiny
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.models.lineage import Origin, base_model, complete_card, dataset_origin, model_origin, origin_from

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_models_commit_is_the_one_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.hub_cache(tmp_path / "hub", {"org/base": "llama"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    commit = (folder / "models--org--base" / "refs" / "main").read_text(encoding="utf-8")
    assert model_origin("org/base") == Origin("org/base", on_hub=True, commit=commit)
    assert model_origin("org/base", SHA).commit == SHA, "a revision that is a commit is the commit"
    assert model_origin("org/other") == Origin("org/other", on_hub=True)


def test_a_local_model_is_its_name_and_its_root(tmp_path: Path) -> None:
    """The root is found through the whole chain of folders."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, base in ((first, "org/base"), (second, str(first))):
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n", encoding="utf-8")
    assert model_origin(str(second)) == Origin("second", base="org/base")
    assert model_origin(str(second)).root == "org/base"
    (tmp_path / "bare").mkdir()
    assert model_origin(str(tmp_path / "bare")).root is None


def test_a_hub_dataset_names_its_commit() -> None:
    """`datasets` stores the addresses of the files that it loaded."""
    url = f"hf://datasets/org/data@{SHA}/data/train-00000.parquet"
    loaded = SimpleNamespace(info=SimpleNamespace(download_checksums={url: {"num_bytes": 1}}))
    assert dataset_origin(loaded, "org/data") == Origin("org/data", on_hub=True, commit=SHA)
    assert dataset_origin(loaded) == Origin("org/data", on_hub=True, commit=SHA), "also if given from Python"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/me/secret/train.jsonl", Origin("train.jsonl")),
        ("package.module:function", Origin("package.module:function")),
        ("org/data", Origin("org/data", on_hub=True)),
        (None, None),
    ],
)
def test_other_data_is_named_without_its_path(name: str | None, expected: Origin | None) -> None:
    assert dataset_origin(Dataset.from_list([{"a": 1}]), name) == expected


def test_an_origin_outlives_the_journal() -> None:
    origin = Origin("org/data", on_hub=True, commit=SHA)
    assert origin_from(origin.as_dict()) == origin
    assert origin_from({}) is None
    assert origin_from("org/data") is None


# ---- cards and chains of folders ------------------------------------------------------------------------------------

CARD = """---
library_name: transformers
base_model: {base}
---
# A model
"""


def folder_with(path: Path, *, card: str | None = None, adapter_of: str | None = None) -> Path:
    """Return a model folder with only what its lineage needs."""
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_text(card, encoding="utf-8")
    if adapter_of is not None:
        (path / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": adapter_of}), encoding="utf-8"
        )
    return path


def test_the_root_is_found_through_cards_and_adapters(tmp_path: Path) -> None:
    """The chain leads through iterations, folder by folder, up to a name on the Hub."""
    first = folder_with(tmp_path / "0", card=CARD.format(base="org/start"))
    second = folder_with(tmp_path / "1", adapter_of=str(first))
    third = folder_with(tmp_path / "2", card=CARD.format(base=str(second)))
    assert base_model(third) == "org/start"
    assert base_model("org/start") == "org/start"


def test_a_root_may_be_unknown(tmp_path: Path) -> None:
    """Without a card, or with a card without a base, broken metadata or a circle of folders, there is no root, and no
    endless search.
    """
    assert base_model(folder_with(tmp_path / "bare")) is None
    assert base_model(folder_with(tmp_path / "text", card="# Just text\n")) is None
    assert base_model(folder_with(tmp_path / "broken", card="---\nbase_model: [\n---\n")) is None
    circle = folder_with(tmp_path / "circle", card=CARD.format(base=str(tmp_path / "circle")))
    assert base_model(circle) != "org/start"


def test_a_card_may_list_its_bases(tmp_path: Path) -> None:
    """The Hub allows a list; the first is the one that training started from."""
    listed = folder_with(tmp_path / "listed", card=CARD.format(base="\n- org/first\n- org/second"))
    assert base_model(listed) == "org/first"


def test_a_card_from_the_hub_is_left_as_it_is(tmp_path: Path) -> None:
    """In this case, TRL knows the base."""
    path = tmp_path / "README.md"
    path.write_text(CARD.format(base="org/start"), encoding="utf-8")
    before = path.read_bytes()
    complete_card(path, "org/start")
    assert path.read_bytes() == before


@pytest.mark.parametrize("base", ["org/start", None])
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_a_trained_models_card_names_its_origin(base: str | None, peft: bool, tmp_path: Path) -> None:
    """TRL alone would write "fine-tuned version of None" and lose `base_model`; tags and paper are SPIN's."""
    start = tiny.save(tmp_path / "start")
    if base is not None:
        (start / "README.md").write_text(CARD.format(base=base), encoding="utf-8")
    args = SPINConfig(
        "out", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no", max_length=64
    )
    trainer = SPINTrainer(
        str(start),
        args=args,
        train_dataset=tiny.sft(2),
        peft_config=LoraConfig(task_type="CAUSAL_LM") if peft else None,
    )
    trainer.create_model_card(model_name="mine")
    card = ModelCard.load("out/README.md")
    assert "None" not in card.text
    assert card.data.base_model == base
    said = "fine-tuned version of [org/start](https://huggingface.co/org/start)" if base else "trained from scratch"
    assert said in card.text
    assert {"trl", "dpo", "spin"} <= set(card.data.tags)
    assert "2401.01335" in card.text
    assert str(tmp_path) not in card.content, "no path of this machine"


def test_a_card_is_written_with_the_models_of_an_object_too(tmp_path: Path) -> None:
    """A model object loaded from a folder has that folder's lineage."""
    start = tiny.save(tmp_path / "start")
    (start / "README.md").write_text(CARD.format(base="org/start"), encoding="utf-8")
    args = SPINConfig("out", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, max_length=64)
    model = AutoModelForCausalLM.from_pretrained(start)
    trainer = SPINTrainer(model, args=args, train_dataset=tiny.sft(2), processing_class=tiny.tokenizer())
    trainer.create_model_card(model_name="mine", dataset_name="org/data")
    card = ModelCard.load("out/README.md")
    assert card.data.base_model == "org/start"
    assert "org/data" in card.content
