"""`spin-trl run`, and the commands that play one phase."""

from pathlib import Path

import pytest
import yaml

import tiny
from messages import names
from spin_trl.cli import main

SETTINGS = {
    "num_iterations": 2, "max_length": 96, "max_new_tokens": 8, "per_device_train_batch_size": 4, "num_train_epochs": 1,
    "generation_batch_size": 4, "held_out_fraction": 0.2, "use_cpu": True, "bf16": False, "report_to": "none",
    "activation_checkpointing": False, "disable_tqdm": True, "learning_rate": 1e-3, "loss_type": "space",
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, llama_folder):
    """A function that writes a recipe on tiny data, with settings to change, and returns its path."""

    def write(name="my", **changes):
        data = tmp_path / "train.jsonl"
        if not data.exists():
            tiny.write_jsonl(data, tiny.sft(12))
        settings = {**SETTINGS, "model_name_or_path": str(llama_folder), "dataset_name": str(data)}
        settings = {key: value for key, value in {**settings, **changes}.items() if value is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path)

    return write


def refusal(capsys, *arguments, code=2):
    """What the command says on stderr when it refuses; one message, no traceback."""
    assert main(list(arguments)) == code
    message = capsys.readouterr().err
    assert message.startswith("spin-trl: ")
    assert "Traceback" not in message
    return message


def test_a_run_plays_and_says_where_the_best_is(recipe, capsys):
    assert main(["run", recipe()]) == 0
    output = capsys.readouterr().out
    assert names(output, "iteration-1: train:", "Best:")
    assert Path("runs/my/best.json").exists()


def test_one_phase_at_a_time_gives_the_same_model_as_a_run(recipe):
    assert main(["run", recipe(), "--run_dir", "whole"]) == 0
    first = recipe()
    assert main(["start", first, "--run_dir", "phases"]) == 0
    for iteration in ("0", "1"):
        for phase in ("generate", "train", "evaluate"):
            assert main([phase, "phases", "--iteration", iteration]) == 0
    for stage in ("iteration-0", "iteration-1"):
        weights = [Path(run, stage, "model", "model.safetensors").read_bytes() for run in ("whole", "phases")]
        assert weights[0] == weights[1]
        assert Path("whole", stage, "metrics.json").read_text(encoding="utf-8") == Path(
            "phases", stage, "metrics.json"
        ).read_text(encoding="utf-8")


def test_a_phase_of_an_iteration_that_the_run_does_not_have_is_refused(recipe, capsys):
    assert names(refusal(capsys, "generate", recipe(), "--iteration", "2"), "`--iteration`", 2, "0 to 1")


def test_a_phase_out_of_order_names_the_one_that_comes_first(recipe, capsys):
    message = refusal(capsys, "train", recipe())
    assert names(message, "train phase", 0, "generate phase", "iteration-0")
    message = refusal(capsys, "generate", recipe(), "--iteration", "1")
    assert names(message, "generate phase", 1, "train phase", "iteration-0")
