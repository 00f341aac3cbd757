"""What can't be played is said before anything runs, all of it in one message."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

import tiny
from runs import build
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig, SPINTrainer
from spin_trl.errors import DataError, RecipeError
from spin_trl.models.adapters import adapter_refusals
from spin_trl.training.unplayable import of_batches, of_positions, of_run, of_settings, positions, trackers

EVERY_NINE = {"eval_strategy": "steps", "eval_steps": 9, "save_strategy": "steps", "save_steps": 9}


def settings(**changes: Any) -> SPINConfig:
    """Settings of an iteration on the CPU."""
    return SPINConfig("out", **{"use_cpu": True, "bf16": False, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` (5) adds noise"),
        ({"sync_ref_model": True}, "`sync_ref_model` moves the reference"),
        ({"report_to": "wanb"}, "`report_to` names 'wanb', which is no tracker; did you mean 'wandb'?"),
        ({"optim": "grokadamw"}, "`optim` is 'grokadamw', which can't be used here"),
        ({"optim": "galore_adamw", "optim_target_modules": ["q_proj"]}, "`galore_torch`"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "`lr_scheduler_type` is 'cosine_with_min_lr'"),
        ({"lr_scheduler_kwargs": {"foo": 1}}, "`lr_scheduler_kwargs` {'foo': 1}"),
        ({"num_train_epochs": 0}, "`num_train_epochs` is 0; it must be above 0"),
        ({"max_steps": 0}, "`max_steps` is 0"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` is 0; it must be at least 1"),
        ({"learning_rate": -1.0}, "`learning_rate` is -1.0; it must be at least 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"truncation_mode": "keep"}, "`truncation_mode` is 'keep'"),
        ({"dataloader_persistent_workers": True}, "`dataloader_persistent_workers` needs"),
        ({"train_sampling_strategy": "group_by_length"}, "a pair has two responses"),
        ({"model_init_kwargs": {"load_in_4bit": True}}, "In a recipe set `load_in_4bit: true`"),
        ({"model_init_kwargs": {"dtype": "bfloat"}}, "`dtype` is 'bfloat', which is no format of numbers"),
        ({"beta": 0.0}, "`beta` is 0; it must be above 0"),
        ({"beta": -1.0, "loss_type": ["ipo"]}, "`beta` is -1; it must be above 0"),
        ({"label_smoothing": 0.5}, "`label_smoothing` is 0.5; it must be at least 0 and below 0.5"),
        ({"activation_offloading": True}, "`activation_offloading` moves activations from a GPU"),
    ],
)
def test_settings_that_no_iteration_can_be_played_with(changes: dict[str, Any], said: str) -> None:
    """Each is named with what to do."""
    assert said in "\n".join(of_settings(settings(**changes)))


def test_usual_settings_are_played() -> None:
    """Nothing is refused without a reason."""
    for changes in (
        {},
        {"lr_scheduler_type": "constant"},
        {"optim": "adamw_bnb_8bit"},
        {"max_steps": 3},
        {"bf16": True},
        {"model_init_kwargs": {"dtype": "auto"}},
        {"model_init_kwargs": {"dtype": torch.float16}},
        {"model_init_kwargs": {"dtype": "torch.bfloat16"}},
        {"beta": 0.5, "label_smoothing": 0.1},
    ):
        assert of_settings(settings(**changes)) == []
    assert of_run(settings(), SelfPlayConfig()) == []


def test_trackers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that transformers knows, by its own words on whether they are there."""
    from transformers import integrations

    for is_there in (False, True):
        monkeypatch.setattr(integrations, "is_wandb_available", lambda is_there=is_there: is_there)
        assert bool(trackers(["wandb"])) is not is_there
    assert trackers("none") == trackers([]) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"eval_strategy": "steps", "eval_steps": 10},
            "`eval_strategy: steps`: an iteration's training has no dataset",
        ),
        ({"eval_on_start": True}, "`eval_on_start: true`"),
        ({"load_best_model_at_end": True, **EVERY_NINE}, "delivers the best by `metric_for_best_iteration`"),
        ({"save_strategy": "best"}, "`save_strategy: best`"),
    ],
)
def test_evaluation_without_data_is_refused_in_a_run(changes: dict[str, Any], said: str) -> None:
    """SPINTrainer may have an `eval_dataset`; an iteration of a run has none."""
    assert said in "\n".join(of_run(settings(**changes), SelfPlayConfig()))


@pytest.mark.parametrize(
    ("metric", "scorer", "said"),
    [
        ("winrate", None, "did you mean 'win_rate'?"),
        ("loss", None, "is no held-out figure"),
        ("score", "gsm8k", "the scorer gives score/exact_match"),
        ("score/exactmatch", "gsm8k", "did you mean 'score/exact_match'?"),
        ("score", ["gsm8k", "json"], "score/gsm8k.exact_match"),
        ("score/exact_match", "gsm8k", None),
        ("score_greedy/exact_match", "gsm8k", None),
        ("score/json", ["gsm8k", "json"], None),
        ("score", "json", None),
        ("score/mine", "json:dumps", None),  # only calling it would tell
        ("gap", None, None),
        ("degeneration/repetition", None, None),
    ],
)
def test_a_figure_that_there_is_not_is_refused_with_the_nearest(metric: str, scorer: Any, said: str | None) -> None:
    """It would leave the best iteration to chance, at the end of the run."""
    found = "\n".join(of_run(settings(), SelfPlayConfig(metric_for_best_iteration=metric, scorer=scorer)))
    assert found == "" if said is None else said in found


def test_incomplete_batches_that_are_dropped_leave_something() -> None:
    """Over all processes, and with all generations of a prompt."""
    args = settings(dataloader_drop_last=True, per_device_train_batch_size=8)
    assert of_batches(args, 16, 2) == of_batches(settings(), 1, 1) == []
    assert (
        "15 pairs at most, fewer than one whole batch (`per_device_train_batch_size`: 8 x 2 processes)"
        in (of_batches(args, 15, 2)[0])
    )
    assert of_batches(settings(dataloader_drop_last=True, num_generations=4), 2, 1) == []


def test_positions_of_a_model() -> None:
    """Scaled ones count, and models without a limit have none."""
    assert positions(LlamaConfig(max_position_embeddings=64)) == 64
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    assert positions(LlamaConfig(max_position_embeddings=64, rope_parameters=linear)) == 256
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    assert positions(LlamaConfig(max_position_embeddings=128, rope_parameters=yarn)) == 128
    assert positions(AutoConfig.for_model("gpt2", n_positions=32)) == 32
    assert (
        positions(AutoConfig.for_model("bloom")) is positions(AutoConfig.for_model("mamba")) is positions(None) is None
    )
    few = LlamaConfig(max_position_embeddings=64)
    assert "`max_length` is 65, but m has 64 positions" in of_positions(few, settings(max_length=65), "m")[0]
    assert of_positions(few, settings(max_length=64), "m") == of_positions(few, settings(max_length=None), "m") == []


LONG = "An answer of many words, " * 60


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": None}, r"The longest row has 1269 tokens, but .* has 512 positions"),
        ({"max_length": None, "max_new_tokens": 8, "short": True}, None),
        (
            {"max_length": None, "max_new_tokens": 1024, "short": True},
            r"prompt has 9 tokens and its answer may have 1024 .* to 503 at most",
        ),
        (
            {"max_length": 64, "truncation_mode": "keep_end", "as_prompt": True},
            r"The longest prompt has 1261 tokens, but .* Leave out `truncation_mode`",
        ),
        ({"max_length": 64}, None),
    ],
)
def test_rows_longer_than_the_model_has_positions_are_refused(
    llama_folder: Path, changes: dict[str, Any], said: str | None
) -> None:
    """As soon as they are prepared: before the start is measured. The trainer says it in its constructor."""
    row = dict(tiny.sft(1)[0])
    if not changes.pop("short", False):
        row["prompt" if changes.pop("as_prompt", False) else "completion"] = LONG
    rows = Dataset.from_list([*tiny.sft(9), row])
    session = build(llama_folder, train_dataset=rows, num_iterations=1, **changes)

    def trainer() -> None:
        args = settings(**{"max_new_tokens": 8, **changes})
        SPINTrainer(str(llama_folder), args=args, train_dataset=rows)

    if said is None:
        trainer()
        session.run()
        return
    with pytest.raises(DataError, match=said):
        trainer()
    with pytest.raises(DataError, match=said):
        session.run()
    assert not Path("run/journal.jsonl").exists()


def test_a_run_says_all_reasons_at_once_before_anything_is_written(llama_folder: Path) -> None:
    """And a single phase does, too."""
    bad = {"neftune_noise_alpha": 5.0, "eval_strategy": "steps", "eval_steps": 9, "max_length": 513}
    session = build(llama_folder, metric_for_best_iteration="winrate", **bad)
    for play in (session.run, lambda: session.run_phase("start", 0)):
        with pytest.raises(
            RecipeError, match=r"4 settings can't be played:\n- `neftune.*\n- `eval_.*\n.*win_rate.*\n.*512 pos"
        ):
            play()
    assert not Path("run").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["new", "start", "model"])
def test_single_tokens_of_tied_embeddings_are_refused_with_all_else(kind: str, tied: bool, tmp_path: Path) -> None:
    """Whether the adapter is new, or the start has it, in a folder or in memory."""
    base = tiny.save(tmp_path / "base", tiny.model(tie_word_embeddings=tied), tiny.tokenizer())
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3], task_type="CAUSAL_LM")
    model: Any = base
    if kind != "new":
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    if kind == "start":
        model.save_pretrained(tmp_path / "adapter")
        model = tmp_path / "adapter"
    session = build(model, neftune_noise_alpha=5.0, peft_config=config if kind == "new" else None)
    said = r"^2 settings .*\n- `neftune.*\n- `trainable_token_indices` trains rows" if tied else "^`neftune"
    with pytest.raises(RecipeError, match=said):
        session.run()
    assert not Path("run").exists()


@pytest.mark.parametrize("how", ["argument", "model_init_kwargs"])
def test_weights_in_few_bits_need_an_adapter(how: str, llama_folder: Path) -> None:
    """Without one the run would end when its first iteration is trained."""
    eight = BitsAndBytesConfig(load_in_8bit=True)
    changes: dict[str, Any] = {
        "argument": {"quantization_config": eight},
        "model_init_kwargs": {"model_init_kwargs": {"quantization_config": eight.to_dict()}},
    }[how]
    with pytest.raises(RecipeError, match=r"are quantised \(bitsandbytes\).*`use_peft: true`"):
        build(llama_folder, **changes).run()
    assert not Path("run").exists()


def test_an_adapter_that_can_not_be_copied_is_refused_in_a_run(llama_folder: Path) -> None:
    """One iteration of a trainer needs no copy."""
    config = AdaLoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", total_step=10)
    with pytest.raises(RecipeError, match="`peft_config` is AdaLoraConfig: PEFT allows one such adapter a model"):
        build(llama_folder, peft_config=config).run()
    assert adapter_refusals(config) == []


def test_a_trainer_goes_on_with_an_adapter_that_is_named_by_its_folder(llama_folder: Path, tmp_path: Path) -> None:
    """As a run does; TRL would look for a whole model there. A second adapter, or a model of no name, is refused."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config)
    model.save_pretrained(tmp_path / "adapter")
    given: dict[str, Any] = {
        "args": settings(max_length=64, max_new_tokens=4, max_steps=1, report_to=[]),
        "train_dataset": tiny.sft(4),
    }
    trainer = SPINTrainer(str(tmp_path / "adapter"), **given)
    trainer.train()
    trained = dict(trainer.model.named_parameters())
    before = dict(model.named_parameters())
    moved = [name for name, value in before.items() if not torch.equal(value, trained[name])]
    assert moved
    assert all("lora_" in name for name in moved)
    with pytest.raises(RecipeError, match="`model` has an adapter already"):
        SPINTrainer(str(tmp_path / "adapter"), peft_config=config, **given)
    with pytest.raises(RecipeError, match="Pass it as `processing_class`"):
        SPINTrainer(tiny.model(), **given)


def test_a_second_adapter_is_refused_by_name(llama_folder: Path) -> None:
    """With all else, before the caller's model is touched."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config)
    said = r"^2 settings .*\n- `neftune.*\n- `model` has an adapter already, and `peft_config` asks for another one"
    with pytest.raises(RecipeError, match=said):
        build(model, neftune_noise_alpha=5.0, peft_config=config).run()
    with pytest.raises(RecipeError, match=said):
        SPINTrainer(model, args=settings(neftune_noise_alpha=5.0), train_dataset=tiny.sft(4), peft_config=config)
    assert not Path("run").exists()


def test_a_new_adapter_for_a_start_that_has_one_is_named(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a recipe's settings of LoRA are. Nothing is said where a whole model gets its first adapter."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config).save_pretrained(tmp_path / "adapter")
    build(llama_folder, peft_config=config)
    assert "`peft_config`" not in caplog.text
    build(tmp_path / "adapter", peft_config=config)
    assert "`peft_config`: not used, since" in caplog.text


def test_a_model_in_memory_is_looked_at_before_it_is_kept(llama_folder: Path) -> None:
    """Its positions, its tokenizer, and what an iteration's trainer would refuse."""
    with pytest.raises(
        RecipeError, match=r"(?s)^2 settings .*the model has 512 positions.*Pass it as `processing_class`"
    ):
        build(tiny.model(), max_length=513).run()
    with pytest.raises(RecipeError, match="Unknown f_divergence_type"):
        build(AutoModelForCausalLM.from_pretrained(llama_folder), f_divergence_type="foo").run()
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"f_divergence_type": "foo"}, "Unknown f_divergence_type"),
        ({"pad_token": "[X]"}, "pad_token"),
        ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef"),
        ({"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}, "The model can't be loaded as set"),
        ({"model_init_kwargs": {"attn_implementation": "foo"}}, "The model can't be loaded as set: .*foo"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 64}, "`dataloader_drop_last` leaves nothing"),
    ],
)
def test_what_a_trainer_refuses_is_said_before_the_start_is_measured(
    llama_folder: Path, changes: dict[str, Any], said: str
) -> None:
    """By making one beforehand, on a model without weights."""
    with pytest.raises(RecipeError, match=said):
        build(llama_folder, **changes).run()
    assert not Path("run").exists()


def test_reasons_that_are_found_when_a_run_is_made_are_said_with_the_others(llama_folder: Path) -> None:
    """An unknown scorer or loss is refused at once, and so is all that would be refused later."""
    bad = {"neftune_noise_alpha": 5.0, "metric_for_best_iteration": "winrate"}
    said = r"3 settings can't be played:\n- .*'exact'.*known are.*\n- `neftune.*\n- .*win_rate"
    with pytest.raises(RecipeError, match=said):
        build(llama_folder, scorer="exact", **bad)
    play = SelfPlayConfig(metric_for_best_iteration="winrate")
    with pytest.raises(RecipeError, match=said):
        SelfPlay(
            str(llama_folder), settings(neftune_noise_alpha=5.0, max_length=64), play, tiny.sft(8), scorer="exact"
        )
    with pytest.raises(
        RecipeError, match=r"4 settings .*\n- .*no_such_module.*\n- .*`loss_type` 'spni'.*\n- `neft.*\n"
    ):
        build(llama_folder, scorer="no_such_module:f", loss_type="spni", **bad)


def test_the_trainer_says_it_in_its_constructor(llama_folder: Path) -> None:
    """Before any prompt is answered."""
    with pytest.raises(RecipeError, match="`neftune_noise_alpha`"):
        SPINTrainer("no/such-model", args=settings(neftune_noise_alpha=5.0), train_dataset=tiny.sft(4))
    with pytest.raises(RecipeError, match="has 512 positions"):
        SPINTrainer(str(llama_folder), args=settings(max_length=513), train_dataset=tiny.sft(4))
