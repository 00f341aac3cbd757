"""A trainer leaves checkpoints that resume, weights that load, adapters, and cards."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import tiny
from drop_in.compare import Kind, Steps, kinds, same_weights, steps, train_both, weights
from spin_trl import SPINConfig

CHECKPOINTED = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}


@pytest.mark.parametrize(
    ("by", "adapter"), [("path", False), ("newest", False), ("newest", True)], ids=["path", "newest", "adapter"]
)
@pytest.mark.slow
def test_a_checkpoint_resumes_where_it_stopped(
    by: str, adapter: bool, kind: Kind, folder: str, llama_folder: Path
) -> None:
    """Four steps equal two steps, an interruption and two more, bit for bit."""
    peft_config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM") if adapter else None

    def build(**settings: Any) -> Any:
        return kind.build(
            str(llama_folder),
            settings={**CHECKPOINTED, **settings},
            train_dataset=tiny.preference(8),
            peft_config=peft_config,
        )

    whole = build(output_dir=f"{folder}/whole")
    whole.train()
    half = build(output_dir=f"{folder}/half")
    half.add_callback(Steps(stop_after=2))
    half.train()
    rest = build(output_dir=f"{folder}/half")
    taken = Steps()
    rest.add_callback(taken)
    rest.train(resume_from_checkpoint=f"{folder}/half/checkpoint-2" if by == "path" else True)
    assert taken.taken == [3, 4]
    assert steps(rest) == steps(whole)
    final = weights(whole.model)
    assert all(torch.equal(parameter, final[name]) for name, parameter in rest.model.named_parameters())


@pytest.mark.parametrize("writer", [0, 1], ids=["DPOTrainer", "SPINTrainer"])
@pytest.mark.slow
def test_a_checkpoint_resumes_in_the_other_class(writer: int, folder: str, llama_folder: Path) -> None:
    """A run begun with one class resumes with the other: the files are the same, and additional ones are ignored."""
    first, second = kinds(folder)[writer], kinds(folder)[1 - writer]
    data = tiny.preference(8)

    def build(kind: Kind, name: str) -> Any:
        settings = {**CHECKPOINTED, "output_dir": f"{folder}/{name}"}
        return kind.build(str(llama_folder), settings=settings, train_dataset=data)

    whole, half, rest = build(first, "whole"), build(first, "run"), build(second, "run")
    whole.train()
    half.add_callback(Steps(stop_after=2))
    taken = Steps()
    rest.add_callback(taken)
    half.train()
    rest.train(resume_from_checkpoint=True)
    assert taken.taken == [3, 4]
    assert steps(rest) == pytest.approx(steps(whole))
    same_weights(whole.model, rest.model)


def test_the_best_checkpoint_is_loaded_and_old_ones_go(folder: str, llama_folder: Path) -> None:
    """`load_best_model_at_end` and `save_total_limit` work as before; the files are DPOTrainer's."""
    settings = {
        "max_steps": 4,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 1,
        "eval_steps": 1,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_rewards/margins",
        "greater_is_better": False,
    }
    dpo, spin = train_both(
        folder,
        lambda kind: kind.build(
            str(llama_folder),
            settings=settings,
            train_dataset=tiny.preference(8),
            eval_dataset=tiny.preference(3),
        ),
    )
    best = Path(spin.state.best_model_checkpoint).name
    assert best == Path(dpo.state.best_model_checkpoint).name
    files = {
        trainer: {str(path.relative_to(trainer.args.output_dir)) for path in Path(trainer.args.output_dir).rglob("*")}
        for trainer in (dpo, spin)
    }
    pickled_arguments = {f"{best}/training_args.bin"}
    assert files[dpo] - pickled_arguments <= files[spin]
    assert pickled_arguments <= files[dpo]
    assert not any(name.endswith("training_args.bin") for name in files[spin])
    assert {Path(name).parts[0] for name in files[spin] if name.startswith("checkpoint")} == {best}


def test_the_saved_model_is_the_trained_one(kind: Kind, folder: str, llama_folder: Path) -> None:
    """`save_model` writes weights, tokenizer and settings that load again, also as the next trainer's start."""
    trainer = kind.build(str(llama_folder), train_dataset=tiny.preference(6))
    trainer.train()
    trainer.save_model(f"{folder}/final")
    loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/final")
    same_weights(trainer.model, loaded)
    assert (Path(folder) / "final" / "training_args.bin").exists() == (kind.config is not SPINConfig)
    after = kind.build(f"{folder}/final", train_dataset=tiny.preference(6))
    after.train()
    assert steps(after)[0] == pytest.approx(0.6931472, abs=1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["trl's loss", "own loss"])
def test_the_trained_model_is_an_ordinary_model(own: bool, kind: Kind, folder: str, llama_folder: Path) -> None:
    """It can be copied, pickled and trained again, despite the trainer's attachments."""
    settings = {"loss_type": "space"} if own and kind.config is SPINConfig else {}
    trainer = kind.build(str(llama_folder), settings=settings, train_dataset=tiny.preference(6))
    trainer.train()
    same_weights(trainer.model, copy.deepcopy(trainer.model))
    torch.save(trainer.model, f"{folder}/model.pt")
    same_weights(trainer.model, torch.load(f"{folder}/model.pt", weights_only=False))


@pytest.mark.parametrize(
    "card",
    [
        None,
        "# Plain\n",
        "---\nbase_model: org/base\n---\n# Base\n",
        "---\nbase_model: [org/a, org/b]\n---\n# Merge of two\n",
        "---\nbase_model: [\n---\n# No YAML\n",
    ],
    ids=["none", "plain", "base", "merge", "broken"],
)
@pytest.mark.slow
def test_a_model_card_is_written_whatever_the_start_s_own_says(card: str | None, kind: Kind, folder: str) -> None:
    """It is written with each checkpoint and on demand, with TRL's tags and the name given to the model."""
    start = tiny.save(f"{folder}/start", tiny.model())
    if card is not None:
        (start / "README.md").write_text(card, encoding="utf-8")
    settings = {"save_strategy": "steps", "save_steps": 3, "hub_model_id": "org/my-model"}
    trainer = kind.build(str(start), settings=settings, train_dataset=tiny.preference(6))
    trainer.train()
    text = (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "my-model" in text
    assert {"- trl", "- dpo"} <= set(text.splitlines())
    trainer.create_model_card(model_name="Other", dataset_name="org/data", tags=["more"])
    text = (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "Other" in text
    assert "org/data" in text
    assert "- more" in text.splitlines()
