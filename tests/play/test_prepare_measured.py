"""The test set and the retention set are prepared once, separately from the training data."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

import tiny
from messages import logged, refused
from runs import ROWS, build, entry, journal
from spin_trl.errors import DataError


def rows(first: int, count: int) -> Dataset:
    return tiny.sft(first + count).select(range(first, first + count))


def prepared(model: Path, **settings: Any) -> None:
    """Do what a run does before its first phase."""
    one = build(model, **settings)
    one._claim_directory()
    one._set_up()


def prompts(where: str) -> list[str]:
    return load_from_disk(f"run/data/{where}")["prompt"][:]


def test_a_prompt_of_the_test_set_is_not_trained_on(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By default it is left out of the training data and of separate held-out data, whatever its case and white space."""
    shouted = Dataset.from_list([{**tiny.sft(5)[4], "prompt": tiny.sft(5)[4]["prompt"].upper() + " "}])
    held_out = concatenate_datasets([rows(ROWS, 3), rows(ROWS + 3, 1)])
    test = concatenate_datasets([shouted, rows(ROWS + 3, 3)])
    prepared(llama_folder, eval_dataset=held_out, test_dataset=test)
    data = entry("prepare", "data")
    assert (data["left_out_for_test"], data["train_rows"], data["held_out_rows"]) == (2, ROWS - 1, 3)
    assert entry("prepare", "test")["rows"] == 4
    assert not set(prompts("test")) & {*prompts("train"), *prompts("held-out")}
    assert tiny.sft(5)[4]["prompt"] not in prompts("train")
    logged(caplog, "1 row", "training", "test")
    logged(caplog, "1 row", "held-out", "test")


@pytest.mark.parametrize("begins", [True, False])
def test_a_prompt_that_was_trained_on_is_not_tested_on(begins: bool, llama_folder: Path) -> None:
    """This holds with `drop_held_out`, and for any setting if the test set is added to a run that has begun."""
    test = concatenate_datasets([rows(0, 2), rows(ROWS, 3)])
    if begins:
        prepared(llama_folder, test_dataset=test, held_out_overlap="drop_held_out")
    else:
        prepared(llama_folder)
        prepared(llama_folder, test_dataset=test)
    found = entry("prepare", "test")
    assert (found["rows"], found["overlap"]) == (3, 2)
    assert entry("prepare", "data")["train_rows"] == 12
    assert not set(prompts("test")) & {*prompts("train"), *prompts("held-out")}


def test_shared_prompts_are_refused(llama_folder: Path) -> None:
    """Whether they are refused depends on a setting; a set without any rows left, or without columns of human
    responses, always is.
    """
    with refused(DataError, "2 test prompts", tiny.sft(1)[0]["prompt"], "`held_out_overlap: drop_train`"):
        prepared(llama_folder, test_dataset=rows(0, 2), held_out_overlap="refuse")
    assert not Path("run/data").exists()
    with refused(DataError, "`test_name`", "2 rows"):
        prepared(llama_folder, test_dataset=rows(0, 2), held_out_overlap="drop_held_out")
    with refused(DataError, "`test_name`", "15 rows"):
        prepared(llama_folder, run_dir="all", test_dataset=tiny.sft(ROWS))
    with refused(DataError, "`test_name`", "`prompt`"):
        prepared(llama_folder, run_dir="columns", test_dataset=Dataset.from_list([{"text": "a"}]))
    with refused(DataError, "`test_dataset`"):
        prepared(llama_folder, run_dir="empty", test_dataset=rows(0, 1).select([]))


def test_lost_training_rows_are_made_again_with_the_same_test_set_alone(llama_folder: Path) -> None:
    """They were separated from it; without it, other rows would be trained on."""
    test = concatenate_datasets([rows(0, 1), rows(ROWS, 2)])
    prepared(llama_folder, test_dataset=test)
    wanted = prompts("train")
    next(Path("run/data/train").glob("*.arrow")).unlink()
    with refused(DataError, "`test_name`", entry("prepare", "test")["dataset"]):
        prepared(llama_folder)
    with refused(DataError, "`test_name`"):
        prepared(llama_folder, test_dataset=rows(ROWS, 2))
    prepared(llama_folder, test_dataset=test)
    assert prompts("train") == wanted


def test_a_test_set_that_nothing_was_measured_on_may_be_replaced(llama_folder: Path) -> None:
    prepared(llama_folder, test_dataset=rows(ROWS, 3))
    prepared(llama_folder, test_dataset=rows(ROWS + 1, 4))
    assert prompts("test") == rows(ROWS + 1, 4)["prompt"][:]
    assert [line["rows"] for line in journal() if (line["phase"], line["stage"]) == ("prepare", "test")] == [3, 4]


def test_the_rows_of_retention_are_drawn_once_for_every_run(llama_folder: Path) -> None:
    """At most `retain_max` rows are drawn from all rows, whatever the run's seed, excluding prompts that are trained
    on or held out.
    """
    every = concatenate_datasets([rows(0, 2), rows(ROWS, 40)])
    prepared(llama_folder, retain_dataset=every, retain_max=10)
    prepared(llama_folder, run_dir="other", retain_dataset=every, retain_max=10, seed=7)
    found = prompts("retention")
    assert found == load_from_disk("other/data/retention")["prompt"][:]
    assert len(found) + entry("prepare", "retention")["overlap"] == 10
    assert found != rows(ROWS, len(found))["prompt"][:], "these are the first rows, not drawn ones"
    prepared(llama_folder, run_dir="all", retain_dataset=every)
    assert len(load_from_disk("all/data/retention")) == 40
    assert entry("prepare", "retention", "all")["overlap"] == 2
    assert not set(found) & {*prompts("train"), *prompts("held-out")}
