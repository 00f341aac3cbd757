"""`spin-trl run quickstart` works with its own YAML, at a size that takes seconds."""

import json

import pytest
import yaml
from datasets import load_from_disk
from transformers import AutoTokenizer

from spin_trl.cli import main
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.run.recipe_file import find_recipe

SMALL = ["--max_rows", "48", "--held_out_max", "24", "--start_hidden_size", "32", "--start_num_epochs", "1"]
SMALL += ["--num_train_epochs", "1", "--num_iterations", "3", "--max_new_tokens", "12"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Play a small quickstart; return its run directory."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    assert main(["run", "quickstart", "--run_dir", str(folder), *SMALL]) == 0
    return folder


def test_the_recipe_is_found_by_its_name():
    settings = yaml.safe_load(find_recipe("quickstart").read_text(encoding="utf-8"))
    assert settings["num_iterations"] >= 3
    assert settings["dataset_name"] == "spin_trl.sentences:load"
    assert settings["baseline_label_smoothing"] == [0.0, settings["start_label_smoothing"]]


def test_it_makes_a_start_plays_three_iterations_and_two_supervised_arms(played):
    journal = [json.loads(line) for line in (played / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    done = [(entry["phase"], entry["stage"]) for entry in journal]
    assert done[:3] == [("prepare", "data"), ("train", "start"), ("evaluate", "start")]
    for iteration in range(3):
        stage = f"iteration-{iteration}"
        arms = [f"baseline/{arm}/{stage}" for arm in ("sft", "sft-smoothing-0.1")]
        expected = [("generate", stage), ("train", stage), ("evaluate", stage), ("gate", stage)]
        expected += [(phase, arm) for arm in arms for phase in ("train", "evaluate")]
        assert done[3 + 8 * iteration :][:8] == expected
    assert not any("collapse" in entry for entry in journal)
    steps = {entry["stage"]: entry["steps"] for entry in journal if "steps" in entry}
    assert set(steps.values()) == {3}  # 48 rows, batches of 16, one epoch; the same for each arm


def test_it_shows_a_table_and_a_plot_and_delivers_the_best(played):
    table = (played / "table.txt").read_text(encoding="utf-8")
    assert all(
        name in table for name in ("start", "iteration 0", "iteration 2", "sft 2", "sft smoothing 0.1 2", "score %")
    )
    assert (played / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "smoothed SFT (0.1), iteration 2" in (played / "report.html").read_text(encoding="utf-8")
    best = json.loads((played / "best.json").read_text(encoding="utf-8"))
    assert (played / "best" / "model.safetensors").exists() or best["stage"] == "start"
    assert best["metric"] == "score"


def test_its_samples_show_real_and_generated(played):
    samples = [
        json.loads(line)
        for line in (played / "iteration-2" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(samples) == 24
    assert all(sample["prompt"].endswith(">") and sample["real"].endswith(".") for sample in samples)
    assert all(sample["score"] in (0.0, 1.0) for sample in samples)


def test_its_answers_end_where_its_rows_do(played):
    """They end at EOS: if the end of a turn were also an end token, its figures would not match the README."""
    tokenizer = AutoTokenizer.from_pretrained(played / "start" / "tokenizer")
    rows = load_from_disk(str(played / "data" / "train"))
    assert {row["real_ids"][-1] for row in rows} == set(PairTemplate(tokenizer).eos_ids) == {tokenizer.eos_token_id}


def test_a_finished_run_is_shown_again_without_playing(played, capsys):
    before = (played / "journal.jsonl").read_bytes()
    assert main(["run", "quickstart", "--run_dir", str(played), *SMALL]) == 0
    assert (played / "journal.jsonl").read_bytes() == before
    assert "iterations 0 to 2" in capsys.readouterr().out
