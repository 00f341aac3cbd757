"""Arguments from Python are accepted in every usual type, or refused by name and type, without errors from deep inside."""

from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments
from trl import DPOConfig, SFTConfig

import tiny
from messages import refused
from runs import SETTINGS
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig, SPINTrainer
from spin_trl.errors import DataError, RecipeError, SpinError
from spin_trl.training.arguments import as_dataset, as_datasets, as_settings, human_responses, of_pairs

ROWS = [{"prompt": "a b", "completion": "c"}, {"prompt": "d", "completion": "e", "weight": 1}]


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the rows as plain Python values."""
    return list(dataset.with_format(None))


def test_every_usual_kind_of_dataset_is_read_as_it_is_stored() -> None:
    """Covers rows, data frames, formats and transforms; a key that only a later row has becomes a column, too."""
    stored = Dataset.from_list(
        [{"prompt": "a", "completion": "b", "n": 1}, {"prompt": "c", "completion": "d", "n": 2}]
    )
    assert rows_of(as_dataset(ROWS, "x"))[0] == {"prompt": "a b", "completion": "c", "weight": None}
    assert as_dataset(pandas.DataFrame(ROWS), "x").column_names == ["prompt", "completion", "weight"]
    assert as_dataset(stored.data.table, "x")[1] == stored[1]
    for name in ("torch", "numpy", "pandas", "arrow"):
        found = as_dataset(stored.with_format(name), "x")
        assert found.format["type"] is None
        assert found[0] == stored[0]
    assert as_dataset(stored.with_format("numpy", columns=["prompt"]), "x").column_names == ["prompt"]
    assert as_dataset(stored, "x") is stored

    def upper(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"prompt": [text.upper() for text in batch["prompt"]], "completion": batch["completion"]}

    transformed = as_dataset(stored.with_transform(upper), "x")
    assert transformed.format["type"] is None
    assert rows_of(transformed) == [{"prompt": "A", "completion": "b"}, {"prompt": "C", "completion": "d"}]
    assert as_datasets({"a": ROWS})["a"].num_rows == 2


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("train.jsonl", ("str", "'train.jsonl'", "datasets.Dataset", "`datasets.load_dataset`", "`dataset_name`")),
        (DatasetDict(train=Dataset.from_list(ROWS)), ("DatasetDict", "'train'")),
        ({"prompt": ["a"]}, ("dict", "`Dataset.from_dict`")),
        (iter(ROWS), ("list_iterator", "`list(rows)`")),
        ([1, 2], ("Row 0", "int", "dict")),
        ([], ("no rows",)),
        (Dataset.from_list(ROWS).select([]), ("no rows",)),
        ([{"a": 1}, {"a": "b"}], ("ArrowInvalid", "'b'", "int64")),
        (Dataset.from_list(ROWS).to_iterable_dataset(), ("IterableDataset", "`Dataset.from_list(list(it))`")),
        (3, ("int", "datasets.Dataset")),
    ],
)
def test_other_kinds_are_named_with_what_to_do(value: Any, parts: tuple[str, ...]) -> None:
    """The message names the argument."""
    with refused(DataError, "`x`", *parts):
        as_dataset(value, "x")


def test_dpo_configs_are_completed_and_others_named() -> None:
    """The values are the same, with defaults for the rest."""
    found = as_settings(DPOConfig("out", use_cpu=True, bf16=False, beta=0.3, max_length=None, report_to="none"))
    assert isinstance(found, SPINConfig)
    assert (found.beta, found.max_length, found.report_to, found.output_dir) == (0.3, None, [], "out")
    assert (found.max_new_tokens, found.temperature, found.losses) == (1024, 1.0, ["sigmoid"])
    wrongs: list[tuple[Any, tuple[str, ...]]] = [
        (TrainingArguments("x", use_cpu=True), ("TrainingArguments",)),
        (SFTConfig("x", use_cpu=True, bf16=False), ("SFTConfig",)),
        ({"beta": 1}, ("dict", "`SPINConfig(**args)`")),
        (SPINConfig, ("class SPINConfig",)),
        ("x", ("str", "'x'")),
    ]
    for wrong, parts in wrongs:
        with refused(RecipeError, "`args`", *parts):
            as_settings(wrong)


WRONG: list[Any] = [3, "nothing/of-the-kind", Path("x"), {"a": 1}, ["a"], object(), SelfPlayConfig, 1.5, b"x"]
ARGUMENTS = ["args", "play", "train_dataset", "eval_dataset", "processing_class", "peft_config", "quantization_config"]
TRAINERS = [
    "ref_model",
    "args",
    "data_collator",
    "train_dataset",
    "eval_dataset",
    "processing_class",
    "compute_metrics",
]
TRAINERS += ["callbacks", "optimizers", "quantization_config", "peft_config", "model"]


@pytest.mark.parametrize("argument", [*ARGUMENTS, "start", "scorer", "launch", "settings", "sources", "model"])
def test_a_wrong_kind_of_any_argument_of_a_run_is_refused_by_name(argument: str) -> None:
    """The code that first uses it does not raise an AttributeError or a TypeError."""
    args = {name: value for name, value in SETTINGS.items() if name in SPINConfig.__dataclass_fields__}
    for wrong in WRONG:
        given = {"model": "org/m", "args": SPINConfig("out", **args), "train_dataset": tiny.sft(4), argument: wrong}
        if argument in ("settings", "sources") and isinstance(wrong, dict):
            continue
        if (argument == "model" and isinstance(wrong, str | Path)) or (argument == "launch" and callable(wrong)):
            continue
        if argument == "scorer" and callable(wrong):
            continue
        with refused(SpinError, "`tokenizer`" if argument == "processing_class" else f"`{argument}`"):
            SelfPlay(**given)


@pytest.mark.parametrize("argument", TRAINERS)
def test_a_wrong_kind_of_any_argument_of_a_trainer_is_refused_by_name(argument: str, llama_folder: Path) -> None:
    """This holds for human responses and for pairs, where DPOTrainer refuses some itself."""
    args = SPINConfig("out", use_cpu=True, bf16=False)
    for rows in (tiny.sft(4), tiny.preference(4)):
        for wrong in WRONG:
            if argument in ("data_collator", "compute_metrics") and callable(wrong):
                continue
            if argument == "model" and isinstance(wrong, str | Path):
                continue
            part = f"`{argument}`"
            if argument == "eval_dataset" and isinstance(wrong, dict):
                wrong, part = {"a": 1}, "`eval_dataset['a']`"
            with refused((SpinError, TypeError), part):
                SPINTrainer(**{"model": str(llama_folder), "args": args, "train_dataset": rows, argument: wrong})


def test_human_responses_can_be_evaluated_and_predicted_on(llama_folder: Path) -> None:
    """Before training, any kind of dataset is accepted; after it, when no opponent is left, it is refused with the
    reason.
    """
    settings = {name: value for name, value in SETTINGS.items() if name in SPINConfig.__dataclass_fields__}
    args = SPINConfig("out", **{**settings, "max_steps": 1})
    trainer = SPINTrainer(
        str(llama_folder), args=args, train_dataset=list(tiny.sft(4)), processing_class=tiny.tokenizer()
    )
    assert trainer.evaluate(eval_dataset=list(tiny.sft(2)))["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert trainer.predict(list(tiny.sft(2))).metrics["test_loss"] == pytest.approx(0.6931, abs=1e-3)
    trainer.train()
    with refused(RecipeError, "`eval_dataset`", "`trainer.eval_dataset`"):
        trainer.predict(tiny.sft(2))


def test_a_transform_of_pairs_is_left_alone(llama_folder: Path) -> None:
    """It may load an image per row, so only the first row is read, to see that it is a pair."""
    seen: list[int] = []

    def look(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        seen.append(len(next(iter(batch.values()))))
        return batch

    rows = tiny.preference(50).with_transform(look)
    assert human_responses(rows) is None
    assert of_pairs(rows) is rows
    assert of_pairs({"a": rows})["a"] is rows
    assert sum(seen) <= 2


@pytest.mark.parametrize("name", ["torch", "numpy", "pandas", "arrow"])
def test_pairs_of_any_format_are_trained_on_as_they_are_stored(name: str, llama_folder: Path) -> None:
    """DPOTrainer would read some of these as arrays, and fail."""
    args = SPINConfig(
        "out", **{key: value for key, value in SETTINGS.items() if key in SPINConfig.__dataclass_fields__}
    )
    pairs = tiny.preference(4, conversational=True, implicit_prompt=True)
    plain, formatted = (
        SPINTrainer(
            str(llama_folder), args=args, train_dataset=rows, eval_dataset=rows, processing_class=tiny.tokenizer()
        )
        for rows in (pairs, pairs.with_format(name))
    )
    assert formatted.train_dataset.to_list() == plain.train_dataset.to_list()
    assert formatted.eval_dataset.to_list() == plain.eval_dataset.to_list()
    assert formatted.evaluate({"a": pairs.with_format(name)})["eval_a_loss"] == pytest.approx(0.6931, abs=1e-3)


def test_human_responses_that_a_format_or_transform_hides_are_named(llama_folder: Path) -> None:
    """They are named like those of the training dataset, with the columns that are left."""
    rows = tiny.sft(4)
    for hidden in (rows.with_format(None, columns=["prompt"]), rows.with_transform(lambda b: {"prompt": b["prompt"]})):
        with refused(DataError, "`train_dataset`", "['prompt']", "`completion`"):
            human_responses(hidden)
    with refused(DataError, "`train_dataset`", "no rows"):
        human_responses(rows.select([]))
