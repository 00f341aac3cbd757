"""Arguments, settings, defaults, errors, warnings, callbacks and tags are DPOTrainer's."""

import dataclasses
import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.training_args
from peft import LoraConfig
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, HfArgumentParser
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, TrlParser

import tiny
from drop_in.compare import Kind, Steps, kinds, same_weights, steps, train_both, weights
from spin_trl import SPINConfig, SPINTrainer

BAD_SETTINGS = {
    "unknown loss": {"loss_type": "no_such_loss"},
    "exo without smoothing": {"loss_type": "exo_pair"},
    "f-divergence of a loss that has none": {"loss_type": "apo_zero", "f_divergence_type": "forward_kl"},
    "unknown f-divergence": {"f_divergence_type": "no_such_divergence"},
    "weighting of sorted losses": {"loss_type": "aot", "use_weighting": True},
    "too few weights": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]},
    "auxiliary loss of a dense model": {"router_aux_loss_coef": 0.1},
    "unknown truncation": {"truncation_mode": "keep_middle", "max_length": 4},
    "unknown setting": {"no_such_setting": 1},
    "no optimizer": {"optim": "no_such_optimizer"},
}


def test_the_constructor_takes_dpo_trainer_s_arguments_in_its_order() -> None:
    """Names, order and defaults are the same; SPINTrainer's additional arguments come after them and have a default."""
    expected = list(inspect.signature(DPOTrainer.__init__).parameters.values())
    found = list(inspect.signature(SPINTrainer.__init__).parameters.values())
    assert [(p.name, p.default, p.kind) for p in found[: len(expected)]] == [
        (p.name, p.default, p.kind) for p in expected
    ]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in found[len(expected) :])


@pytest.mark.parametrize("name", sorted(name for name in dir(DPOTrainer) if not name.startswith("_")))
def test_every_public_method_can_be_called_as_before(name: str) -> None:
    """SPINTrainer accepts every call that DPOTrainer's method accepts."""
    method = getattr(DPOTrainer, name)
    if not callable(method):
        assert hasattr(SPINTrainer, name)
        return
    expected, found = inspect.signature(method), inspect.signature(getattr(SPINTrainer, name))
    variadic = {p.kind for p in found.parameters.values()} & {inspect.Parameter.VAR_KEYWORD}
    for position, (argument, parameter) in enumerate(expected.parameters.items()):
        if argument in found.parameters:
            assert found.parameters[argument].default == parameter.default
            assert list(found.parameters).index(argument) == position or position > len(found.parameters) - 3
        else:
            assert variadic


def test_settings_have_dpo_config_s_names_and_defaults() -> None:
    """Every field of DPOConfig is there, with its default and its help; new fields have their own defaults."""
    expected = {field.name: field for field in dataclasses.fields(DPOConfig)}
    found = {field.name: field for field in dataclasses.fields(SPINConfig)}
    assert issubclass(SPINConfig, DPOConfig)
    assert list(expected) == [name for name in found if name in expected]
    for name, field in expected.items():
        assert (found[name].type, found[name].default) == (field.type, field.default), name
        assert found[name].metadata == field.metadata, name
    dpo, spin = DPOConfig(use_cpu=True, bf16=False), SPINConfig(use_cpu=True, bf16=False)
    differing = {name for name in expected if getattr(dpo, name) != getattr(spin, name)}
    assert differing <= {"accelerator_config", "logging_dir", "run_name"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--beta", "0.3", "--loss_type", "sigmoid", "bco_pair", "--loss_weights", "1", "0.5"],
        ["--learning_rate", "5e-7", "--max_length", "64", "--model_init_kwargs", '{"dtype": "bfloat16"}'],
        ["--precompute_ref_log_probs", "--padding_free", "true", "--f_divergence_type", "js_divergence"],
    ],
    ids=["none", "losses", "lengths", "switches"],
)
def test_the_command_line_means_the_same(arguments: list[str]) -> None:
    """transformers' parser reads DPOConfig's arguments into SPINConfig with the same values."""
    line = ["--output_dir", "out", "--use_cpu", "true", "--bf16", "false", *arguments]
    (dpo,) = HfArgumentParser(DPOConfig).parse_args_into_dataclasses(line)
    (spin,) = HfArgumentParser(SPINConfig).parse_args_into_dataclasses(line)
    expected, found = json.loads(dpo.to_json_string()), json.loads(spin.to_json_string())
    assert {name: found[name] for name in expected} == expected


def test_a_yaml_file_means_the_same(tmp_path: Path) -> None:
    """TRL's parser reads one file for both."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "output_dir: out\nuse_cpu: true\nbf16: false\nbeta: 0.3\nloss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.5]\n"
        "model_init_kwargs:\n  dtype: float16\nmax_length: null\n",
        encoding="utf-8",
    )
    (dpo,), (spin,) = (
        TrlParser((config,)).parse_args_and_config(["--config", str(path)]) for config in (DPOConfig, SPINConfig)
    )
    expected, found = json.loads(dpo.to_json_string()), json.loads(spin.to_json_string())
    assert {name: found[name] for name in expected} == expected
    assert (found["beta"], found["max_length"], found["loss_type"]) == (0.3, None, ["sigmoid", "sft"])


def test_trl_s_scripts_can_parse_their_arguments() -> None:
    """ScriptArguments, SPINConfig and ModelConfig are parsed together, as in TRL's DPO script."""
    line = ["--dataset_name", "data", "--model_name_or_path", "model", "--output_dir", "out", "--use_cpu", "true"]
    parsed = []
    for config in (DPOConfig, SPINConfig):
        parser = TrlParser((ScriptArguments, config, ModelConfig))
        script, args, model = parser.parse_args_and_config([*line, "--bf16", "false", "--use_peft", "--beta", "0.2"])
        assert (type(args), args.beta) == (config, 0.2)
        parsed.append((script, model))
    assert parsed[0] == parsed[1]


def test_dpo_config_itself_will_do(folder: str, llama_folder: Path) -> None:
    """Only the class name has to change in a script: DPOConfig gives the same training."""
    dpo, spin = kinds(folder)
    mixed = dataclasses.replace(spin, config=DPOConfig)
    trainers = []
    for kind in (dpo, mixed):
        trainer = kind.build(str(llama_folder), train_dataset=tiny.preference(6))
        trainer.train()
        trainers.append(trainer)
    assert type(trainers[1]) is SPINTrainer
    assert type(trainers[1].args) is DPOConfig
    assert steps(trainers[1]) == pytest.approx(steps(trainers[0]))
    same_weights(trainers[0].model, trainers[1].model)


def test_settings_may_be_left_out(kind: Kind, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default settings are the class's own, with an output folder named after the model."""
    monkeypatch.setattr(transformers.training_args, "is_torch_bf16_gpu_available", lambda: True)
    trainer = kind.trainer(str(llama_folder), train_dataset=tiny.preference(2))
    assert type(trainer.args) is kind.config
    assert Path(trainer.args.output_dir).name.startswith(llama_folder.name + "-")
    assert (trainer.args.beta, trainer.args.bf16, trainer.loss_types) == (0.1, True, ["sigmoid"])


def test_arguments_may_be_positional(kind: Kind) -> None:
    """The order is model, ref_model, args, data_collator, train_dataset, eval_dataset, processing_class."""
    model, reference, data = tiny.model(), tiny.model(seed=1), tiny.preference(2)
    trainer = kind.trainer(model, reference, kind.settings(), None, data, data, tiny.tokenizer())
    assert trainer.model is model
    assert trainer.ref_model is reference
    assert len(trainer.eval_dataset) == 2


@pytest.mark.parametrize("settings", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
@pytest.mark.slow
def test_bad_settings_raise_what_they_did(settings: dict[str, Any], folder: str, llama_folder: Path) -> None:
    """The exception and its message are the same, at construction or at the first step."""
    raised = []
    for kind in kinds(folder):
        with pytest.raises(Exception) as caught:  # whatever DPOTrainer raises
            kind.build(str(llama_folder), settings=settings, train_dataset=tiny.preference(4)).train()
        raised.append((type(caught.value), str(caught.value).replace("SPINConfig", "DPOConfig")))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_free": True}, "`padding_free=True` is temporarily unavailable"),
        ({"model_init_kwargs": {"dtype": "float32"}}, "your model is already instantiated"),
        ({"loss_type": "robust", "label_smoothing": 0.7}, "should lie in \\[0.0, 0.5\\) for the 'robust' loss"),
    ],
    ids=["padding_free", "model_init_kwargs", "robust"],
)
def test_questionable_settings_are_warned_of(
    settings: dict[str, Any], message: str, kind: Kind, llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Training continues as with DPOTrainer."""
    logging.getLogger("trl").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer = kind.build(llama, settings=settings, train_dataset=tiny.preference(4))
    assert any(re.search(message, record.getMessage()) for record in caplog.records)
    trainer.train()
    assert len(steps(trainer)) == 3


def test_remote_code_needs_trust(kind: Kind, folder: str) -> None:
    """A model that comes with code is loaded only with `trust_remote_code`, and so is its reference."""
    path = tiny.save(f"{folder}/remote", tiny.model())
    (path / "modeling_own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="custom code"):
        kind.build(str(path), train_dataset=tiny.preference(2))
    trainer = kind.build(str(path), settings={"trust_remote_code": True}, train_dataset=tiny.preference(2))
    assert {type(model).__name__ for model in (trainer.model, trainer.ref_model)} == {"OwnForCausalLM"}


@pytest.mark.parametrize("peft_config", [None, LoraConfig(task_type="CAUSAL_LM")], ids=["full", "adapter"])
def test_models_are_tagged(peft_config: Any, kind: Kind, llama_folder: Path) -> None:
    """They have TRL's tags, which the Hub's listings use."""
    trainer = kind.build(str(llama_folder), train_dataset=tiny.preference(2), peft_config=peft_config)
    assert {"trl", "dpo"} <= set(trainer.model.model_tags)


def test_callbacks_and_optimizers_of_ones_own(folder: str, llama_folder: Path) -> None:
    """Callbacks see every step; an optimizer and a schedule that are passed in are used."""
    watcher = Steps()

    def build(kind: Kind) -> Any:
        model = AutoModelForCausalLM.from_pretrained(llama_folder)
        optimizer = torch.optim.SGD([model.lm_head.weight], lr=0.5)
        return kind.build(
            model,
            train_dataset=tiny.preference(6),
            callbacks=[watcher],
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        )

    _, spin = train_both(folder, build)
    assert watcher.taken == [1, 2, 3] * 2
    assert steps(spin, "learning_rate") == [0.5] * 3
    before = weights(AutoModelForCausalLM.from_pretrained(llama_folder))
    changed = {name for name, p in spin.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"lm_head.weight"}


def test_public_attributes_say_the_same(folder: str, llama_folder: Path) -> None:
    """SPINTrainer has every attribute that a callback or a script reads from DPOTrainer, with the same value."""
    settings = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "beta": 0.3, "ld_alpha": 0.5}
    dpo, spin = (
        kind.build(str(llama_folder), settings=settings, train_dataset=tiny.preference(4)) for kind in kinds(folder)
    )
    plain = {name: v for name, v in vars(dpo).items() if isinstance(v, bool | int | float | str | list | None)}
    assert {"beta", "loss_types", "loss_weights", "ld_alpha", "label_smoothing", "padding_free"} <= plain.keys()
    assert {name: vars(spin)[name] for name in plain if not name.startswith("_")} == {
        name: value for name, value in plain.items() if not name.startswith("_")
    }
    assert {name for name in vars(dpo) if not name.startswith("_")} <= vars(spin).keys()
