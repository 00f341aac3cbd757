"""The recipe `gsm8k-cpu` runs with its own YAML, at a size that takes seconds, on GSM8K's format and on other data."""

import json
from pathlib import Path

import pytest
import yaml

import tiny
from spin_trl.cli import main
from spin_trl.run.recipe import read_recipe
from spin_trl.run.recipe_file import find_recipe

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
RECIPE = find_recipe("gsm8k-cpu")
SMALL = ["--max_rows", "16", "--held_out_max", "6", "--start_hidden_size", "32", "--start_num_layers", "1"]
SMALL += ["--start_vocab_size", "400", "--start_num_epochs", "1", "--max_new_tokens", "16", "--max_length", "512"]
SCORES = ("exact_match", "answer_line", "format")


def metrics(folder: Path, stage: str) -> dict[str, float]:
    return json.loads((folder / stage / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play a small run on GSM8K's own rows; return its directory."""
    for name in ("train.jsonl", "test.jsonl"):
        if not (GSM8K / name).exists():
            pytest.skip(f"GSM8K's {name} is not at ../shared/data/gsm8k next to the repository")
    folder = tmp_path_factory.mktemp("gsm8k") / "run"
    data = ["--dataset_name", str(GSM8K / "train.jsonl"), "--held_out_name", str(GSM8K / "test.jsonl")]
    assert main(["run", str(RECIPE), *data, "--run_dir", str(folder), *SMALL]) == 0
    return folder


def test_it_is_a_llama_of_5_to_15_million_parameters_with_byte_level_bpe_and_two_iterations() -> None:
    recipe = read_recipe(str(RECIPE))
    start = recipe.start
    assert (start.start_tokenizer, recipe.play.num_iterations) == ("bpe", 2)
    feed_forward = round(8 * start.start_hidden_size / 3 / 32) * 32
    layer = start.start_hidden_size * (4 * start.start_hidden_size + 3 * feed_forward)
    parameters = start.start_vocab_size * start.start_hidden_size + start.start_num_layers * layer
    assert 5e6 < parameters < 15e6
    assert not Path(
        yaml.safe_load(RECIPE.read_text(encoding="utf-8")).get("dataset_name", "")
    ).is_absolute()  # the data is passed as an argument


@pytest.mark.slow
def test_on_gsm8k_every_stage_has_its_figures(played: Path) -> None:
    """These are the NLL, the three rates, and their standard errors; the held-out problems are those of the test file."""
    for stage in ("start", "iteration-0", "iteration-1"):
        found = metrics(played, stage)
        assert found["held_out"] == 6
        assert 0 < found["nll"] < 10
        for name in SCORES:
            assert 0 <= found[f"score/{name}"] <= 1
            assert f"score/{name}_se" in found
    problems = [
        json.loads(line)["question"] for line in (GSM8K / "test.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    ]
    samples = [
        json.loads(line)
        for line in (played / "iteration-1" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [sample["prompt"] for sample in samples] == problems
    assert all(set(sample["score"]) == set(SCORES) for sample in samples)
    table = (played / "table.txt").read_text(encoding="utf-8")
    assert all(name in table for name in ("exact match %", "answer line %", "format %", "NLL/token", "iteration 1"))


def test_its_tokenizer_is_trained_on_the_data_and_knows_every_byte(played: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(played / "start" / "model")
    for text in ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72", "Ünïcödé ☃"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", ["prompt-completion", "messages"])
def test_it_plays_on_any_other_data(kind: tiny.SFTKind, tmp_path: Path) -> None:
    """It needs neither `held_out_name`, nor GSM8K's columns, nor rates that other data can't have."""
    path = tiny.write_jsonl(tmp_path / "train.jsonl", tiny.sft(64, kind))
    run = tmp_path / "run"
    options = ["--dataset_name", str(path), "--run_dir", str(run), *SMALL, "--max_rows", "64", "--num_iterations", "1"]
    assert main(["run", str(RECIPE), *options]) == 0
    found = metrics(run, "iteration-0")
    assert found["held_out"] >= 1
    assert not any(name.startswith("score") for name in found)
