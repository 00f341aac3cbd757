"""Settings that can't be played are reported before anything runs, in a single message."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

import tiny
from messages import names, refused
from runs import build
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig, SPINTrainer
from spin_trl.errors import DataError, RecipeError, noted
from spin_trl.models.adapters import adapter_refusals
from spin_trl.training.unplayable import of_batches, of_configuration, of_run, of_settings, positions, trackers

EVERY_NINE = {"eval_strategy": "steps", "eval_steps": 9, "save_strategy": "steps", "save_steps": 9}


def settings(**changes: Any) -> SPINConfig:
    """Return settings of an iteration on the CPU."""
    return SPINConfig("out", **{"use_cpu": True, "bf16": False, **changes})


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"neftune_noise_alpha": 5.0}, ("`neftune_noise_alpha`", 5)),
        ({"sync_ref_model": True}, ("`sync_ref_model`",)),
        ({"report_to": "wanb"}, ("`report_to`", "'wanb'", "'wandb'")),
        ({"optim": "grokadamw"}, ("`optim`", "'grokadamw'", "pip install grokadamw")),
        (
            {"optim": "galore_adamw", "optim_target_modules": ["q_proj"]},
            ("`optim`", "'galore_adamw'", "`galore_torch`"),
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            ("`lr_scheduler_type`", "'cosine_with_min_lr'", "min_lr", "`lr_scheduler_kwargs`"),
        ),
        ({"lr_scheduler_kwargs": {"foo": 1}}, ("`lr_scheduler_kwargs`", "{'foo': 1}")),
        ({"num_train_epochs": 0}, ("`num_train_epochs`", 0)),
        ({"max_steps": 0}, ("`max_steps`", 0, -1)),
        ({"per_device_train_batch_size": 0}, ("`per_device_train_batch_size`", 0, 1)),
        ({"learning_rate": -1.0}, ("`learning_rate`", -1.0, 0)),
        ({"learning_rate": float("nan")}, ("`learning_rate`", "nan", 0)),
        ({"truncation_mode": "keep"}, ("`truncation_mode`", "'keep'", "'keep_start'", "'keep_end'")),
        ({"dataloader_persistent_workers": True}, ("`dataloader_persistent_workers`", "`dataloader_num_workers`", 1)),
        ({"train_sampling_strategy": "group_by_length"}, ("`train_sampling_strategy: group_by_length`",)),
        (
            {"model_init_kwargs": {"load_in_4bit": True}},
            ("`model_init_kwargs`", "`load_in_4bit: true`", "`quantization_config=BitsAndBytesConfig(...)`"),
        ),
        ({"model_init_kwargs": {"dtype": "bfloat"}}, ("`dtype`", "'bfloat'", "'bfloat16'")),
        ({"beta": 0.0}, ("`beta`", 0)),
        ({"beta": -1.0, "loss_type": ["ipo"]}, ("`beta`", -1.0, 0)),
        ({"label_smoothing": 0.5}, ("`label_smoothing`", 0.5, 0)),
        ({"activation_offloading": True}, ("`activation_offloading`", "GPU", "CPU")),
    ],
)
def test_settings_that_no_iteration_can_be_played_with(changes: dict[str, Any], parts: tuple[object, ...]) -> None:
    """Each is named, with what to do."""
    found: list[str] = []
    noted(found, lambda: found.extend(of_settings(settings(**changes))))  # settings no run can use are refused
    assert names("\n".join(found), *parts)


def test_usual_settings_are_played() -> None:
    """No setting is refused without a reason."""
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
    assert [*of_run(settings(), SelfPlayConfig())] == []


def test_trackers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are trackers that transformers knows and reports as not installed."""
    from transformers import integrations

    for is_there in (False, True):
        monkeypatch.setattr(integrations, "is_wandb_available", lambda is_there=is_there: is_there)
        assert bool([*trackers(["wandb"])]) is not is_there
    assert [*trackers("none"), *trackers([])] == []


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"eval_strategy": "steps", "eval_steps": 10}, ("`eval_strategy: steps`",)),
        ({"eval_on_start": True}, ("`eval_on_start: true`",)),
        ({"load_best_model_at_end": True, **EVERY_NINE}, ("`eval_strategy: steps`", "`load_best_model_at_end: true`")),
        ({"save_strategy": "best"}, ("`save_strategy: best`",)),
    ],
)
def test_evaluation_without_data_is_refused_in_a_run(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    """SPINTrainer may have an `eval_dataset`; an iteration of a run has none."""
    found = "\n".join(of_run(settings(**changes), SelfPlayConfig()))
    assert names(found, "`metric_for_best_iteration`", *parts)


@pytest.mark.parametrize(
    ("metric", "scorer", "parts"),
    [
        ("winrate", None, ("'win_rate'",)),
        ("loss", None, ("win_rate", "score/NAME")),
        ("score", "gsm8k", ("score/exact_match", "score/format")),
        ("score/exactmatch", "gsm8k", ("'score/exact_match'",)),
        ("score", ["gsm8k", "json"], ("score/gsm8k.exact_match", "score/json")),
        ("score/exact_match", "gsm8k", None),
        ("score_greedy/exact_match", "gsm8k", None),
        ("score/json", ["gsm8k", "json"], None),
        ("score", "json", None),
        ("score/mean", ["judge", "json"], ("score/judge", "score/judge.correct", "score/json")),
        ("score/judge.corect", "judge", ("'score/judge.correct'",)),
        ("score/judge", ["judge", "json"], None),
        ("score/judge.correct", "judge", None),
        ("score/mine", "json:dumps", None),  # only calling it would show that
        ("gap", None, None),
        ("degeneration/repetition", None, None),
    ],
)
def test_a_figure_that_there_is_not_is_refused_with_the_nearest(
    metric: str, scorer: Any, parts: tuple[str, ...] | None
) -> None:
    """Otherwise the best iteration would be left to chance, at the end of the run."""
    judge = {"judge_url": "http://localhost/v1", "judge_model": "wise"} if "judge" in (scorer or ()) else {}
    found = "\n".join(
        of_run(settings(), SelfPlayConfig(metric_for_best_iteration=metric, scorer=scorer, **judge), ["correct"])
    )
    if parts is None:
        assert found == ""
    else:
        assert names(found, "`metric_for_best_iteration`", repr(metric), *parts)


def test_the_numbers_of_a_rubric_are_known_before_the_run() -> None:
    rubric = {"criteria": [{"name": "short", "words": {"max": 9}}]}
    known = {"score/mean": True, "score/short": True, "score_greedy/short": True, "score/shrt": False}
    for metric, is_known in known.items():
        play = SelfPlayConfig(metric_for_best_iteration=metric, scorer="rubric", rubric=rubric)
        found = "\n".join(of_run(settings(), play))
        assert (
            found == "" if is_known else names(found, "`metric_for_best_iteration`", "'score/shrt'", "'score/short'")
        )


def test_incomplete_batches_that_are_dropped_leave_something() -> None:
    """The count is over all processes, with all generations of a prompt."""
    args = settings(dataloader_drop_last=True, per_device_train_batch_size=8)
    assert [*of_batches(args, 16, 2), *of_batches(settings(), 1, 1)] == []
    (found,) = of_batches(args, 15, 2)
    assert names(found, "`dataloader_drop_last`", "15 pairs", "`per_device_train_batch_size`", "8 x 2 processes")
    assert [*of_batches(settings(dataloader_drop_last=True, num_generations=4), 2, 1)] == []


def test_positions_of_a_model() -> None:
    """Scaled positions count, and models without a limit have none."""
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
    (found,) = of_configuration(few, settings(max_length=65), "m")
    assert names(found, "`max_length`", 65, "m", "64 positions", "`max_position_embeddings`")
    for max_length in (64, None):
        assert [*of_configuration(few, settings(max_length=max_length), "m")] == []


def test_an_encoder_decoder_is_refused() -> None:
    """transformers would look for a decoder's first token, and fail at the first generation."""
    (found,) = of_configuration(LlamaConfig(is_encoder_decoder=True), settings(), "m")
    assert names(found, "m", "`is_encoder_decoder: true`", "config.json")


def test_a_model_whose_outputs_are_tuples_is_refused() -> None:
    """Both generation and training would look for `logits` in vain."""
    (found,) = of_configuration(LlamaConfig(return_dict=False), settings(), "m")
    assert names(found, "m", "`return_dict: false`", "config.json")
    assert [*of_configuration(LlamaConfig(), settings(), "m")] == []


@pytest.mark.parametrize("flag", ["output_hidden_states", "output_attentions"])
def test_a_flag_that_is_no_flag_is_refused(flag: str) -> None:
    """transformers takes it, and fails in the middle of a forward pass."""
    (found,) = of_configuration(LlamaConfig(**{flag: "a"}), settings(), "m")
    assert names(found, "m", f"`{flag}: 'a'`")
    assert [*of_configuration(LlamaConfig(**{flag: True}), settings(), "m")] == []


LONG = "An answer of many words, " * 60


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"max_length": None}, ("1269 tokens", "512 positions", "`max_length`", "`rope_parameters`")),
        ({"max_length": None, "max_new_tokens": 8, "short": True}, None),
        (
            {"max_length": None, "max_new_tokens": 1024, "short": True},
            ("9 tokens", 1024, "512 positions", "`max_new_tokens`", 503, "`max_length`"),
        ),
        (
            {"max_length": 64, "truncation_mode": "keep_end", "as_prompt": True},
            ("Row 9", "512 (`max_position_embeddings`)", "`truncation_mode`", "`max_length`"),
        ),
        ({"max_length": 64}, None),
    ],
)
def test_rows_longer_than_the_model_has_positions_are_refused(
    llama_folder: Path, changes: dict[str, Any], parts: tuple[object, ...] | None
) -> None:
    """They are refused as soon as the rows are prepared, before the start is evaluated. The trainer reports it in its
    constructor.
    """
    row = dict(tiny.sft(1)[0])
    if not changes.pop("short", False):
        row["prompt" if changes.pop("as_prompt", False) else "completion"] = LONG
    rows = Dataset.from_list([*tiny.sft(9), row])
    session = build(llama_folder, train_dataset=rows, num_iterations=1, **changes)

    def trainer() -> None:
        args = settings(**{"max_new_tokens": 8, **changes})
        SPINTrainer(str(llama_folder), args=args, train_dataset=rows)

    if parts is None:
        trainer()
        session.run()
        return
    with refused(DataError, *parts):
        trainer()
    with refused(DataError, *parts):
        session.run()
    assert not Path("run/journal.jsonl").exists()


def test_a_run_says_all_reasons_at_once_before_anything_is_written(llama_folder: Path) -> None:
    """So does a single phase."""
    bad = {"neftune_noise_alpha": 5.0, "eval_strategy": "steps", "eval_steps": 9, "max_length": 513}
    session = build(llama_folder, metric_for_best_iteration="winrate", **bad)
    for play in (session.run, lambda: session.run_phase("start", 0)):
        with refused(
            RecipeError,
            "4 settings", "`neftune_noise_alpha`", "`eval_strategy: steps`", "`metric_for_best_iteration`", "'win_rate'",
            "`max_length`", 513, "512 positions",
        ):  # fmt: skip
            play()
    assert not Path("run").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["new", "start", "model"])
def test_single_tokens_of_tied_embeddings_are_refused_with_all_else(kind: str, tied: bool, tmp_path: Path) -> None:
    """This holds whether the adapter is new, or belongs to the start, in a folder or in memory."""
    base = tiny.save(tmp_path / "base", tiny.model(tie_word_embeddings=tied), tiny.tokenizer())
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3], task_type="CAUSAL_LM")
    model: Any = base
    if kind != "new":
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    if kind == "start":
        model.save_pretrained(tmp_path / "adapter")
        model = tmp_path / "adapter"
    session = build(model, neftune_noise_alpha=5.0, peft_config=config if kind == "new" else None)
    of_tokens = ("2 settings", "`trainable_token_indices`", "`modules_to_save`") if tied else ()
    with refused(RecipeError, "`neftune_noise_alpha`", *of_tokens) as error:
        session.run()
    assert ("trainable_token_indices" in str(error.value)) is tied
    assert not Path("run").exists()


@pytest.mark.parametrize("how", ["argument", "model_init_kwargs"])
def test_weights_in_few_bits_need_an_adapter(how: str, llama_folder: Path) -> None:
    """Without one, the run would end when its first iteration is trained."""
    eight = BitsAndBytesConfig(load_in_8bit=True)
    changes: dict[str, Any] = {
        "argument": {"quantization_config": eight},
        "model_init_kwargs": {"model_init_kwargs": {"quantization_config": eight.to_dict()}},
    }[how]
    with refused(RecipeError, "bitsandbytes", "`use_peft: true`", "`peft_config`"):
        build(llama_folder, **changes).run()
    assert not Path("run").exists()


def test_an_adapter_that_can_not_be_copied_is_refused_in_a_run(llama_folder: Path) -> None:
    """One iteration of a trainer needs no copy."""
    config = AdaLoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", total_step=10)
    with refused(RecipeError, "`peft_config`", "AdaLoraConfig"):
        build(llama_folder, peft_config=config).run()
    assert [*adapter_refusals(config)] == []


def test_a_trainer_goes_on_with_an_adapter_that_is_named_by_its_folder(llama_folder: Path, tmp_path: Path) -> None:
    """TRL would look for a full model there. As in a run, a second adapter, or a model without a name, is refused."""
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
    with refused(RecipeError, "`model`", "`peft_config`", "`model.merge_and_unload()`"):
        SPINTrainer(str(tmp_path / "adapter"), peft_config=config, **given)
    with refused(RecipeError, "`model`", "tokenizer", "`processing_class`"):
        SPINTrainer(tiny.model(), **given)


def test_a_second_adapter_is_refused_by_name(llama_folder: Path) -> None:
    """It is reported with all other reasons, before the caller's model is touched."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config)
    parts = ("2 settings", "`neftune_noise_alpha`", "`model`", "`peft_config`", "`model.merge_and_unload()`")
    with refused(RecipeError, *parts):
        build(model, neftune_noise_alpha=5.0, peft_config=config).run()
    with refused(RecipeError, *parts):
        SPINTrainer(model, args=settings(neftune_noise_alpha=5.0), train_dataset=tiny.sft(4), peft_config=config)
    assert not Path("run").exists()


def test_a_new_adapter_for_a_start_that_has_one_is_named(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is the same as for a recipe's LoRA settings. Nothing is reported when a full model gets its first
    adapter.
    """
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config).save_pretrained(tmp_path / "adapter")
    build(llama_folder, peft_config=config)
    assert "`peft_config`" not in caplog.text
    build(tmp_path / "adapter", peft_config=config)
    assert names(caplog.text, "`peft_config`", tmp_path / "adapter")


def test_a_model_in_memory_is_looked_at_before_it_is_kept(llama_folder: Path) -> None:
    """Its positions, its tokenizer, and whatever an iteration's trainer would refuse are checked."""
    with refused(RecipeError, "2 settings", "`max_length`", 513, "512 positions", "`model`", "`processing_class`"):
        build(tiny.model(), max_length=513).run()
    with refused(RecipeError, "f_divergence_type", "foo"):
        build(AutoModelForCausalLM.from_pretrained(llama_folder), f_divergence_type="foo").run()
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"f_divergence_type": "foo"}, ("f_divergence_type", "foo")),
        ({"pad_token": "[X]"}, ("`pad_token`", "'[X]'")),
        ({"router_aux_loss_coef": 0.1}, ("`router_aux_loss_coef`", 0.1)),
        ({"model_init_kwargs": {"attn_implementation": "flash_attention_2"}}, ("FlashAttention2",)),
        ({"model_init_kwargs": {"attn_implementation": "foo"}}, ('attn_implementation="foo"',)),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
            ("`dataloader_drop_last`", "15 pairs", "`per_device_train_batch_size`", 64),
        ),
    ],
)
def test_what_a_trainer_refuses_is_said_before_the_start_is_measured(
    llama_folder: Path, changes: dict[str, Any], parts: tuple[object, ...]
) -> None:
    """A trainer is constructed beforehand, on a model without weights."""
    with refused(RecipeError, *parts):
        build(llama_folder, **changes).run()
    assert not Path("run").exists()


def test_reasons_that_are_found_when_a_run_is_made_are_said_with_the_others(llama_folder: Path) -> None:
    """An unknown scorer or loss is refused at once, and so is everything that would be refused later."""
    bad = {"neftune_noise_alpha": 5.0, "metric_for_best_iteration": "winrate"}
    later = ("`neftune_noise_alpha`", "`metric_for_best_iteration`", "'win_rate'")
    with refused(RecipeError, "3 settings", "`scorer`", "'exact'", "'exact_match'", *later):
        build(llama_folder, scorer="exact", **bad)
    play = SelfPlayConfig(metric_for_best_iteration="winrate")
    with refused(RecipeError, "3 settings", "`scorer`", "'exact'", "'exact_match'", *later):
        SelfPlay(
            str(llama_folder), settings(neftune_noise_alpha=5.0, max_length=64), play, tiny.sft(8), scorer="exact"
        )
    with refused(RecipeError, "4 settings", "'no_such_module:f'", "`loss_type`", "'spni'", *later):
        build(llama_folder, scorer="no_such_module:f", loss_type="spni", **bad)


def test_the_trainer_says_it_in_its_constructor(llama_folder: Path) -> None:
    """It is reported before any prompt is answered."""
    with refused(RecipeError, "`neftune_noise_alpha`", 5):
        SPINTrainer("no/such-model", args=settings(neftune_noise_alpha=5.0), train_dataset=tiny.sft(4))
    with refused(RecipeError, "`max_length`", 513, "512 positions"):
        SPINTrainer(str(llama_folder), args=settings(max_length=513), train_dataset=tiny.sft(4))
