"""A killed run resumes with the same weights, bit for bit."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import runs
from messages import names
from processes import alike
from spin_trl.cli import main

STAGES = ("iteration-0", "iteration-1")
# Enough steps, with checkpoints in between, that the kill comes in the middle.
SLOW = {"num_train_epochs": 40, "save_strategy": "steps", "save_steps": 10, "lr_scheduler_type": "linear"}


def weights(run_dir: Path) -> list[bytes]:
    return [(run_dir / stage / "model" / "model.safetensors").read_bytes() for stage in STAGES]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(["run", str(runs.recipe(folder, llama_folder, **SLOW))]) == 0
    return folder / "run"


def kill_when(recipe: Path, ready: Callable[[], bool]) -> None:
    """Start a run in a separate process and kill it with SIGKILL as soon as a file exists."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spin_trl", "run", str(recipe)],
        env=alike(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 150
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_generation_changes_nothing(tmp_path, llama_folder, undisturbed) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, **SLOW)
    generations = tmp_path / "run" / "iteration-1" / "generations"
    kill_when(recipe, lambda: any(generations.glob("shard-*.parquet")))
    finished = {path.name: path.read_bytes() for path in generations.glob("shard-*.parquet")}
    assert finished
    assert ("train", "iteration-1") not in runs.steps(tmp_path / "run")
    assert main(["run", str(recipe)]) == 0
    assert weights(tmp_path / "run") == weights(undisturbed)
    assert all((generations / name).read_bytes() == content for name, content in finished.items())


@pytest.mark.slow
def test_a_kill_in_the_middle_of_training_changes_nothing(tmp_path, llama_folder, undisturbed) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, **SLOW)
    train = tmp_path / "run" / "iteration-1" / "train"
    kill_when(recipe, lambda: len(list(train.glob("checkpoint-*/checkpoint.json"))) >= 2)
    assert runs.steps(tmp_path / "run")[-1] == ("generate", "iteration-1")
    assert not (tmp_path / "run" / "iteration-1" / "model").exists()
    assert main(["run", str(recipe)]) == 0
    assert weights(tmp_path / "run") == weights(undisturbed)


@pytest.mark.slow
def test_a_half_written_newest_checkpoint_is_passed_over(tmp_path, llama_folder, undisturbed, caplog) -> None:
    """Trainer's own resume would use it and crash."""
    recipe = runs.recipe(tmp_path, llama_folder, **SLOW)
    train = tmp_path / "run" / "iteration-0" / "train"
    kill_when(recipe, lambda: len(list(train.glob("checkpoint-*/checkpoint.json"))) >= 2)
    newest = max(train.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "checkpoint.json").unlink(missing_ok=True)
    (newest / "model.safetensors").write_bytes(b"half")
    assert main(["run", str(recipe)]) == 0
    passed_over = [message for message in caplog.messages if names(message, newest)]
    assert len(passed_over) == 1
    assert not names(passed_over[0], "processes"), "it was half-written, not written by another number of processes"
    assert weights(tmp_path / "run") == weights(undisturbed)


@pytest.mark.slow
def test_the_opponent_of_a_resumed_iteration_is_its_start_and_not_the_checkpoint(
    tmp_path, llama_folder, undisturbed
) -> None:
    """This holds even if its log-probabilities have to be computed again; with the resumed weights they would be wrong."""
    recipe = runs.recipe(tmp_path, llama_folder, **SLOW)
    train = tmp_path / "run" / "iteration-0" / "train"
    kill_when(recipe, lambda: len(list(train.glob("checkpoint-*/checkpoint.json"))) >= 2)
    assert list(train.glob("pairs/*/cache-*.arrow"))
    shutil.rmtree(train / "pairs")
    assert main(["run", str(recipe)]) == 0
    assert weights(tmp_path / "run") == weights(undisturbed)
