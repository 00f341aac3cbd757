"""Settings of DPOConfig and of self-play are each checked where they are set, and errors show the value."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig

import tiny
from messages import refused
from spin_trl import SelfPlayConfig, SPINConfig, SPINTrainer, StartConfig
from spin_trl.errors import RecipeError

CPU: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none"}


def spin(**settings: Any) -> SPINConfig:
    return SPINConfig("out", **{**CPU, **settings})


def test_a_mistake_in_a_setting_is_the_users_to_mend() -> None:
    """The exit code is 2, and `except ValueError` catches it."""
    assert RecipeError.exit_code == 2
    assert issubclass(RecipeError, ValueError)


def test_everything_of_dpoconfig_is_at_its_default() -> None:
    """Replacing the class's name changes nothing on preference data."""
    theirs, ours = DPOConfig("out", **CPU), spin()
    for name in DPOConfig.__dataclass_fields__:
        if name not in ("logging_dir", "_n_gpu", "deepspeed_plugin", "distributed_state", "accelerator_config"):
            assert getattr(ours, name) == getattr(theirs, name), name


def test_self_plays_defaults_are_the_papers() -> None:
    """The temperature is 1 and the distribution is not truncated, as the theory of SPIN requires; every answer is a pair."""
    config = spin()
    assert (config.temperature, config.top_p, config.top_k, config.num_generations) == (1.0, 1.0, 0, 1)
    assert (config.empty_generations, config.truncated_generations, config.identical_generations) == ("keep",) * 3
    assert config.train_on_turn == "last"
    assert config.check_opponent


@pytest.mark.parametrize(
    ("setting", "value", "parts"),
    [
        ("temperature", -0.1, ("`temperature`", -0.1, 0)),
        ("top_p", 0, ("`top_p`", "above 0", 1)),
        ("top_p", 1.5, ("`top_p`", 1.5, 0, 1)),
        ("top_k", -1, ("`top_k`", -1, 0)),
        ("num_generations", 0, ("`num_generations`", 0, 1)),
        ("generation_batch_size", 0, ("`generation_batch_size`", 0, "'auto'", 1)),
        ("max_new_tokens", 0, ("`max_new_tokens`", 0, 1)),
        ("train_on_turn", "middle", ("`train_on_turn`", "'middle'", "'last'", "'first'", "'all'")),
        ("empty_generations", "maybe", ("`empty_generations`", "'maybe'", "'keep'", "'drop'")),
        ("truncated_generations", "maybe", ("`truncated_generations`", "'maybe'", "'keep'", "'drop'")),
        ("identical_generations", "maybe", ("`identical_generations`", "'maybe'", "'keep'", "'drop'")),
        ("chat_template_kwargs", "{nope", ("`chat_template_kwargs`", "'{nope'", "mapping", "JSON")),
        ("chat_template_kwargs", "[1]", ("`chat_template_kwargs`", [1], "mapping")),
        ("chat_template_kwargs", {"style": 1, "tokenize": True}, ("`chat_template_kwargs`", "'tokenize'")),
        ("chat_template_kwargs", '{"add_generation_prompt": true}', ("'add_generation_prompt'",)),
        ("chat_template_kwargs", {"return_tensors": "pt"}, ("'return_tensors'",)),
        ("chat_template_kwargs", {"tools": []}, ("'tools'",)),
        ("chat_template_kwargs", {"chat_template": "x"}, ("'chat_template'",)),
        ("generation_batch_size", "many", ("`generation_batch_size`", "'many'", "'auto'", 1)),
    ],
)
def test_values_out_of_range_are_named(setting: str, value: Any, parts: tuple[object, ...]) -> None:
    """The message has the value and the allowed range."""
    with refused(RecipeError, *parts):
        spin(**{setting: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"top_p": 1},
        {"top_p": 0.01},
        {"top_k": 50},
        {"max_new_tokens": 1},
        {"train_on_turn": "all"},
    ],
    ids=str,
)
def test_values_at_the_edge_of_a_range_are_taken(settings: dict[str, Any]) -> None:
    """Bounds are inclusive where that makes sense."""
    (name, value), config = *settings.items(), spin(**settings)
    assert getattr(config, name) == value


def test_not_a_number_is_out_of_range() -> None:
    """NaN fails every comparison."""
    with refused(RecipeError, "`temperature`", "nan"):
        spin(temperature=math.nan)


def test_template_arguments_come_as_a_mapping_or_as_json() -> None:
    """The command line can only pass text."""
    for given in ({"enable_thinking": False}, '{"enable_thinking": false}'):
        config = spin(chat_template_kwargs=given)
        assert config.chat_template_kwargs == config.template_kwargs == {"enable_thinking": False}
    assert spin().chat_template_kwargs is None
    assert spin().template_kwargs == {}


def test_a_response_has_a_bound_even_where_max_length_has_none() -> None:
    """`max_length: null` stays valid for DPO, but generation must end."""
    assert spin(max_length=None).max_new_tokens == 1024
    assert spin(max_length=None, max_new_tokens=7).max_new_tokens == 7
    assert spin(max_length=64).max_new_tokens is None


@pytest.mark.parametrize("setting", [{"ld_alpha": 0.5}, {"use_weighting": True}], ids=["ld_alpha", "use_weighting"])
def test_what_has_no_meaning_for_an_objective_is_refused(setting: dict[str, Any]) -> None:
    """Ignoring it silently would mislead; TRL's own losses still accept it."""
    with refused(RecipeError, f"`{next(iter(setting))}`", "DPO", "'space'"):
        spin(loss_type="space", **setting)
    with pytest.raises(RecipeError):
        spin(loss_type=["sigmoid", "space"], loss_weights=[1.0, 1.0], **setting)
    assert spin(loss_type="sigmoid", **setting).loss_type == ["sigmoid"]


def test_an_unknown_loss_falls_through_to_trls_error() -> None:
    """The settings accept it, and the trainer raises TRL's error."""
    assert spin(loss_type="nonsense").loss_type == ["nonsense"]
    args = spin(loss_type="nonsense", max_steps=1, per_device_train_batch_size=2, max_length=64)
    trainer = SPINTrainer(
        model=tiny.model(),
        ref_model=tiny.model(),
        args=args,
        train_dataset=tiny.preference(4),
        processing_class=tiny.tokenizer(),
    )
    with refused(ValueError, "nonsense", "['sigmoid'"):
        trainer.train()


def test_settings_are_dataclasses_that_trls_parser_reads(tmp_path: Path) -> None:
    """Every setting has a help text and can be parsed on the command line."""
    from trl import TrlParser

    parser = TrlParser([SPINConfig, SelfPlayConfig, StartConfig])
    arguments = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", "--loss_type", "space", "--top_k", "5"]
    args, play, start = parser.parse_args_into_dataclasses([*arguments, "--num_iterations", "2", "--baseline", "sft"])
    assert (args.loss_type, args.top_k, play.num_iterations, play.baseline) == (["space"], 5, 2, ["sft"])
    assert start.start_tokenizer == "bpe"
    ours = {name for cls in (SelfPlayConfig, StartConfig) for name in cls.__dataclass_fields__}
    ours |= set(SPINConfig.__dataclass_fields__) - set(DPOConfig.__dataclass_fields__)
    helps = {action.dest: action.help for action in parser._actions}
    assert all(helps[name] for name in ours)
    assert torch.get_default_dtype() == torch.float32
