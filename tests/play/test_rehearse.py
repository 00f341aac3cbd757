"""Settings that an iteration's trainer would refuse are found before a run begins, and a rehearsal leaves no traces."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, get_peft_model

import tiny
from messages import names, refused
from runs import build
from spin_trl.config.traits import USUAL_SETTINGS
from spin_trl.errors import RecipeError
from spin_trl.play.rehearse import OWN, config_of, processes_of, reasons, rehearse
from spin_trl.run.run import Run

ROWS = 12


def run_of(model: Any, **settings: Any) -> Run:
    return build(model, **settings).state


def said(run: Run) -> str:
    return "\n".join(reasons(run, ROWS, 1))


# ---- when something is checked --------------------------------------------------------------------------------------


def test_the_less_is_left_to_be_trained_the_less_is_asked(llama_folder: Path) -> None:
    """Once a run has trained its first iteration, the checks that depend on model and data are known to pass."""
    run = run_of(llama_folder, neftune_noise_alpha=5.0, max_length=513)
    assert names(said(run), "`neftune_noise_alpha`", 5)
    assert names(said(run), 513)
    run.directory.ownership.claim()
    run.journal.append("train", "iteration-0")
    assert names(said(run), "`neftune_noise_alpha`", 5)
    assert not names(said(run), 513)
    run.journal.append("train", "iteration-1")
    assert said(run) == ""
    run.play.existing_run = "overwrite"  # it starts over
    assert names(said(run), 513)


def test_a_reason_that_has_a_name_is_not_repeated_by_the_trainer(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spin_trl.play.rehearse.rehearse", lambda *_: ["rehearsed"])
    assert reasons(run_of(llama_folder), ROWS, 1) == ["rehearsed"]
    (reason,) = reasons(run_of(llama_folder, neftune_noise_alpha=5.0), ROWS, 1)
    assert names(reason, "`neftune_noise_alpha`", 5)


def test_batches_are_counted_over_processes_and_where_rows_are_known(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `train_on_turn: all` there are more pairs than rows."""
    monkeypatch.setattr("spin_trl.play.rehearse.rehearse", lambda *_: [])
    run = run_of(llama_folder, dataloader_drop_last=True)
    assert reasons(run, 4, 1) == []
    assert names(reasons(run, 4, 2)[0], "`dataloader_drop_last`", "4 pairs", "2 processes")
    run.args.train_on_turn = "all"
    assert reasons(run, 4, 2) == []


def test_processes_are_those_of_the_launches(tmp_path: Path) -> None:
    """The number is that of the launches, or of the launch that the run is part of."""
    assert processes_of(None) == processes_of("") == 1
    for config, expected in (({"num_processes": 4}, 4), ({}, 1)):
        (tmp_path / "accelerate.yaml").write_text(
            yaml.safe_dump({"mixed_precision": "no", **config}), encoding="utf-8"
        )
        assert processes_of(str(tmp_path / "accelerate.yaml")) == expected


# ---- the model's configuration ---------------------------------------------------------------------------------------


def test_a_configuration_is_read_and_no_weights(llama_folder: Path, tmp_path: Path) -> None:
    """An adapter's is its base model's; for a start from scratch, it is the one that will be built."""
    adapted = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(llama_folder)
    adapted.save_pretrained(tmp_path / "sft")
    for model in (llama_folder, tmp_path / "sft"):
        config = config_of(run_of(model))
        assert config is not None
        assert (config.model_type, config.hidden_size) == ("llama", tiny.sizes()["hidden_size"])
    scratch = config_of(run_of(None, max_length=40))
    assert scratch is not None
    assert scratch.max_position_embeddings == 40


def test_options_that_mean_nothing_to_the_model_are_named(llama_folder: Path) -> None:
    """All of them are named, with suggestions. Names in the model's configuration, and options for loading, are valid."""
    known = {"use_cache": False, "attention_dropout": 0.0, "attn_implementation": "eager", "key_mapping": None}
    assert said(run_of(llama_folder, model_init_kwargs=known)) == ""
    found = reasons(run_of(llama_folder, model_init_kwargs={**known, "attn_impl": "eager", "frobnicate": 1}), ROWS, 1)
    assert [names(one, f"'{name}'") for one, name in zip(found, ("attn_impl", "frobnicate"), strict=True)] == [
        True,
        True,
    ]
    assert names(found[0], "'attn_implementation'")
    assert said(run_of(llama_folder, model_init_kwargs={"load_in_4bit": True})).count("load_in_4bit") == 2


def test_a_model_without_a_configuration_is_not_looked_at() -> None:
    """Loading it will report why."""
    run = run_of("no/such-model")
    assert config_of(run) is None
    assert rehearse(run, None) == []


# ---- the rehearsal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, None),
        ({"pad_token": "[X]"}, "`pad_token`"),
        ({"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}, "FlashAttention2"),
        ({"peft_config": LoraConfig(r=4, target_modules=["q_prog"], task_type="CAUSAL_LM")}, "'q_prog'"),
    ],
    ids=["usual", "token", "attention", "layer"],
)
def test_what_is_refused_for_a_model_is_known_without_its_weights(
    settings: dict[str, Any], part: str | None, llama_folder: Path
) -> None:
    run = run_of(llama_folder, **settings)
    found = rehearse(run, config_of(run))
    assert found == [] if part is None else names(found[0], part)


def test_a_rehearsal_leaves_no_trace(llama_folder: Path, tmp_path: Path) -> None:
    """It leaves no files, and does not change random states, accelerate's state or the run's settings."""
    run = run_of(llama_folder, adam_beta1=0.8)  # unusual, so that a step is trained as well
    args = run.args.to_dict()
    states = random.getstate(), torch.get_rng_state().tolist(), dict(PartialState._shared_state)
    assert rehearse(run, config_of(run)) == []
    assert (random.getstate(), torch.get_rng_state().tolist(), dict(PartialState._shared_state)) == states
    assert run.args.to_dict() == args
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_is_small_however_many_responses_a_run_generates(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows with 2^20 generations each would take a gigabyte."""
    sizes: list[int] = []

    class Counted(Dataset):
        @classmethod
        def from_list(cls, rows: list[Any], *given: Any, **named: Any) -> Dataset:
            sizes.append(len(rows))
            return Dataset.from_list(rows, *given, **named)

    monkeypatch.setattr("spin_trl.play.rehearse.Dataset", Counted)
    run = run_of(llama_folder, num_generations=2**20)
    assert rehearse(run, config_of(run)) == []
    assert run.args.num_generations == 2**20
    assert max(sizes) == 16  # two rows, eight generations each


def test_where_the_defaults_fail_nothing_is_refused(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal itself is then at fault, which is no reason to refuse a run."""

    def failing(*_: Any, **__: Any) -> None:
        raise ValueError("no trainer today")

    monkeypatch.setattr("spin_trl.play.rehearse._rehearsed_trainer", failing)
    run = run_of(llama_folder)
    assert rehearse(run, config_of(run)) == []


def test_usual_settings_are_settings(llama_folder: Path) -> None:
    """They are TRL's settings, not ours, and the list has no name that does not exist."""
    assert set(vars(run_of(llama_folder).args)) >= USUAL_SETTINGS | OWN
    assert not USUAL_SETTINGS & OWN


def test_settings_of_dpo_on_top_are_rehearsed(llama_folder: Path) -> None:
    """DPOTrainer refuses them only when it is created or computes its loss, which is after all iterations."""
    options = {"then_dpo": "best", "dpo_dataset": tiny.preference(4)}
    assert names(said(run_of(llama_folder, **options, dpo_args={"loss_type": ["exo_pair"]})), "`dpo_args`", "exo_pair")
    smoothed = {"loss_type": ["exo_pair"], "label_smoothing": 0.1}
    assert said(run_of(llama_folder, **options, dpo_args=smoothed)) == ""


def test_a_number_that_the_judge_does_not_give_is_refused_before_the_start_is_measured(llama_folder: Path) -> None:
    judge = {"judge_url": "http://localhost:1/v1", "judge_model": "wise", "scorer": ["judge", "json"]}
    with refused(RecipeError, "`metric_for_best_iteration`", "'score/judge.cleer'", "'score/judge.clear'"):
        build(llama_folder, metric_for_best_iteration="score/judge.cleer", **judge).run()
    assert not Path("run").exists()
