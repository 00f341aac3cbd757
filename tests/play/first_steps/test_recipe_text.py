"""A recipe's text is valid YAML with any quoted text, and describes what fits the data, the model and the machine."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import tiny
from messages import names
from spin_trl.config.data import DataConfig
from spin_trl.config.recipe import known_settings
from spin_trl.data.mapping import ColumnGuess
from spin_trl.plan.devices import Device
from spin_trl.play.first_steps.look import Machine, SeenData, SeenModel
from spin_trl.play.first_steps.recipe_text import (
    ADAPTER,
    COMMENT_WIDTH,
    FOUR_BITS,
    FULL,
    PAIRS_A_STEP,
    Fit,
    gib_in_words,
    recipe_text,
)

CPU = Machine(Device("CPU", 16.0, 1, 20, is_gpu=False))
APPLE = Machine(Device("CPU", 16.0, 1, 20, is_gpu=False), is_mps=True)
GPU = Machine(Device("NVIDIA A10", 22.0, 125, 600))
OLD_GPU = Machine(Device("Tesla T4", 14.6, 65, 320, has_bf16=False))


def model_of(positions: int | None = None, *, is_adapter: bool = False) -> SeenModel:
    config: Any = None
    if positions is not None:
        text = SimpleNamespace(max_position_embeddings=positions)
        config = SimpleNamespace(get_text_config=lambda: text)
    return SeenModel("org/model", config, tiny.tokenizer(), is_adapter)


def data_of(**changes: Any) -> SeenData:
    known = SeenData(
        settings=DataConfig(dataset_name="train.jsonl"),
        total=5000,
        columns=["messages"],
        guess=ColumnGuess(),
        read=["messages"],
        is_text=False,
        lengths=([100] * 100, [40] * 100),
        is_counted=True,
        bad=[],
        sampled=100,
        unused=None,
        scorer=None,
    )
    return replace(known, **changes)


def text_of(
    model: SeenModel | None = None,
    data: SeenData | None = None,
    machine: Machine = CPU,
    fit: Fit | None = None,
    path: str = "recipe.yaml",
) -> str:
    return recipe_text(Path(path), model, data, machine, fit or Fit())


def settings_of(*given: Any, **named: Any) -> dict[str, Any]:
    return dict(yaml.safe_load(text_of(*given, **named)))


def test_the_commands_name_the_recipe_and_what_is_missing_in_it() -> None:
    text = text_of(model_of(), path="some/mine.yaml")
    for command in ("spin-trl preview mine.yaml", "spin-trl plan mine.yaml", "spin-trl run mine.yaml --smoke"):
        assert command in text
    head = text.split("\n\n")[0]
    assert names(head, "data")
    assert not names(head, "model")
    assert yaml.safe_load(text)["output_dir"] == "runs/mine"


ODD = [
    "a: 'b' #c",
    "d\n\x1be",
    "- x",
    "{y}",
    "null",
    "1e3",
    "é, ü",
    "  spaces ",
    "---",
    "x" * 300,
    "\u202eabc",
    "a\tb",
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_whatever_is_quoted_is_read_back(odd: str) -> None:
    """A quoted value is read back unchanged; in a comment, it neither ends the line nor controls the terminal."""
    data = data_of(
        settings=DataConfig(dataset_name=odd, dataset_config=odd, dataset_train_split=odd),
        columns=[odd],
        guess=ColumnGuess({odd: "messages"}),
        unused=f"`{odd}` is not used.",
        bad=[(3, f"{odd} is wrong")],
    )
    text = text_of(replace(model_of(), name=odd), data, Machine(replace(GPU.device, name=odd)))
    settings = yaml.safe_load(text)
    assert settings["model_name_or_path"] == settings["dataset_name"] == settings["dataset_config"] == odd
    assert settings["dataset_train_split"] == odd
    assert settings["column_mapping"] == {odd: "messages"}
    assert not set("\x1b\u202e") & set(text)
    assert settings.keys() == yaml.safe_load(text_of(model_of(), data_of(bad=[(3, "wrong")], settings=data.settings,
        guess=data.guess), GPU)).keys()  # fmt: skip


@pytest.mark.parametrize("data", [None, data_of(), data_of(scorer="gsm8k")], ids=["no-data", "data", "scored"])
def test_settings_in_comments_can_be_set(data: SeenData | None) -> None:
    """Each one, uncommented, is a valid setting of a recipe; the other sets and SFT first are among them."""
    lines = re.findall(r"^# (\w+: .+?)(?:  +#.*)?$", text_of(model_of(), data), re.MULTILINE)
    found = {name for line in lines for name in yaml.safe_load(line)}
    assert {"start", "held_out_name", "test_name", "retain_name", "dpo_name"} <= found
    assert found <= known_settings()


def test_sft_first_is_not_suggested_for_an_adapter() -> None:
    """The adapter is itself the result of training, and self-play continues from it."""
    assert "# start: sft" in text_of(model_of(), data_of())
    assert "# start: sft" not in text_of(model_of(is_adapter=True), data_of())


def test_lines_of_comments_are_not_long() -> None:
    data = data_of(columns=[f"column_{number}" for number in range(80)], unused="word " * 100)
    comments = [line for line in text_of(model_of(), data).splitlines() if line.startswith("#")]
    assert max(map(len, comments)) <= COMMENT_WIDTH + 1


@pytest.mark.parametrize(
    ("whole", "positions", "expected", "cut"),
    [
        ([100] * 100, None, 128, "none"),
        ([*[100] * 99, 190], None, 192, "none"),
        ([*[100] * 99, 400], None, 128, "1.0%"),
        ([100] * 100, 90, 90, "100.0%"),
        ([128] * 100, 4096, 128, "none"),
        ([20000] * 100, None, 8192, "100.0%"),
    ],
    ids=["next-usual", "short-tail", "long-tail", "positions", "usual", "longer-than-all"],
)
def test_max_length_holds_the_rows_but_a_long_tail(
    whole: list[int], positions: int | None, expected: int, cut: str
) -> None:
    """The suggested length is at most the model's positions. A comment says how much it truncates."""
    text = text_of(model_of(positions), data_of(lengths=(whole, [40] * 100)))
    assert yaml.safe_load(text)["max_length"] == expected
    assert names(next(line for line in text.splitlines() if line.startswith("max_length: ")), cut)


def test_answers_are_no_longer_than_rows() -> None:
    assert settings_of(model_of(), data_of())["max_new_tokens"] == 64
    tail = data_of(lengths=([*[10] * 90, *[60] * 10], [*[5] * 90, *[100] * 10]))
    assert settings_of(model_of(), tail)["max_new_tokens"] == settings_of(model_of(), tail)["max_length"] == 64


def test_of_few_rows_more_are_held_out() -> None:
    assert settings_of(model_of(), data_of(total=1999))["held_out_fraction"] == 0.1
    assert "held_out_fraction" not in settings_of(model_of(), data_of(total=2000))


def test_settings_of_the_data_are_written_where_they_are_no_defaults() -> None:
    plain = settings_of(model_of(), data_of())
    optional = {"dataset_config", "dataset_train_split", "column_mapping", "as_conversations", "bad_rows"}
    assert not optional & plain.keys()
    settings = DataConfig(
        dataset_name="org/data", dataset_config="en", dataset_train_split="sft", as_conversations=True
    )
    found = settings_of(model_of(), data_of(settings=settings, guess=ColumnGuess({"q": "prompt"}), bad=[(3, "bad")]))
    assert {name: found[name] for name in optional} == {
        "dataset_config": "en",
        "dataset_train_split": "sft",
        "column_mapping": {"q": "prompt"},
        "as_conversations": True,
        "bad_rows": "skip",
    }


def test_bad_rows_are_named_with_the_first() -> None:
    text = " ".join(text_of(model_of(), data_of(bad=[(37, "`completion` is empty"), (40, "no")])).split())
    assert names(text, "2 of 100 sampled rows", "row 37", "`completion`")


@pytest.mark.parametrize(
    ("kind", "machine", "expected"),
    [
        (FULL, GPU, {"dtype": "float32", "learning_rate": 5e-7, "bf16": True}),
        (FULL, OLD_GPU, {"dtype": "float32", "fp16": True, "bf16": False}),
        (ADAPTER, GPU, {"dtype": "bfloat16", "use_peft": True, "lora_dropout": 0.0, "learning_rate": 1e-5}),
        (ADAPTER, OLD_GPU, {"dtype": "float16", "use_peft": True, "fp16": True, "bf16": False}),
        (ADAPTER, CPU, {"dtype": "float32", "use_peft": True, "use_cpu": True, "bf16": False}),
        (FOUR_BITS, GPU, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_peft": True}),
    ],
    ids=["full", "full-on-old", "adapter", "adapter-on-old", "adapter-on-cpu", "four-bits"],
)
def test_numbers_fit_what_is_trained_and_the_machine(kind: str, machine: Machine, expected: dict[str, Any]) -> None:
    """YAML also reads the learning rate as a number."""
    settings = settings_of(model_of(), data_of(), machine, Fit(kind))
    assert {name: settings.get(name) for name in expected} == expected
    assert ("use_peft" in settings) == (kind != FULL)
    assert ("load_in_4bit" in settings) == (kind == FOUR_BITS)
    assert ("activation_checkpointing" in settings) == machine.device.is_gpu


def test_apples_gpu_is_not_turned_off() -> None:
    assert settings_of(model_of(), data_of(), CPU)["use_cpu"] is True
    settings = settings_of(model_of(), data_of(), APPLE)
    assert "use_cpu" not in settings
    assert settings["bf16"] is False


def test_an_adapter_gets_no_second_one() -> None:
    settings = settings_of(model_of(is_adapter=True), data_of(), GPU, Fit(ADAPTER))
    assert not [name for name in settings if name.startswith("lora_") or name == "use_peft"]
    assert settings["learning_rate"] == 1e-5


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_a_step_has_as_many_pairs_whatever_fits(batch: int) -> None:
    settings = settings_of(model_of(), data_of(), GPU, Fit(FULL, batch))
    assert settings["per_device_train_batch_size"] == batch
    assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == PAIRS_A_STEP


@pytest.mark.parametrize(("fits", "is_told"), [(True, False), (False, True), (None, False)])
def test_what_does_not_fit_is_told(fits: bool | None, is_told: bool) -> None:
    text = text_of(model_of(), data_of(), GPU, Fit(FOUR_BITS, 2, None if fits is None else 30.0, fits))
    assert ("NOT FIT" in text) == is_told
    assert names(text, "30.0 GiB") == (fits is not None)


@pytest.mark.parametrize(
    ("scorer", "metric"), [("gsm8k", "score/exact_match"), ("boxed", "score")], ids=["gsm8k", "boxed"]
)
def test_a_suggested_scorer_is_no_setting_yet(scorer: str, metric: str) -> None:
    text = text_of(model_of(), data_of(scorer=scorer))
    assert "scorer" not in yaml.safe_load(text)
    assert f"\n# scorer: {scorer}\n# metric_for_best_iteration: {metric}\n" in text


@pytest.mark.parametrize(
    ("size", "expected"), [(0.0, "0.1 GiB"), (0.04, "0.1 GiB"), (0.1, "0.1 GiB"), (13.26, "13.3 GiB")]
)
def test_a_size_is_never_said_to_be_nothing(size: float, expected: str) -> None:
    assert names(gib_in_words(size), expected)
