"""A run killed after any file operation resumes with the same command, to the same result.

A separate process kills itself, with SIGKILL, at its k-th write, rename or removal in the run directory.
"""

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from runs import answers, build, steps, weights

pytestmark = pytest.mark.slow

MODULES = [
    "spin_trl.play.loop",
    "spin_trl.training.trainer",
    "transformers.models.llama.modeling_llama",
    "matplotlib.figure",
]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink")


def settings(way: str) -> dict[str, Any]:
    """Return settings with which everything is written: checkpoints, a baseline, and models that are deleted again."""
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "baseline": "sft", "keep_iterations": 1}
    return options | ({"peft_config": LoraConfig(**LORA)} if way == "lora" else {})


def play(model: str, run_dir: str, way: str, last: int, count: Any) -> None:
    """Play a run that counts its file operations and is killed at a given one."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITES
        if (writes or event in CHANGES) and str(args[0]).startswith(run_dir):
            count.value += 1
            if count.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    build(model, run_dir, **settings(way)).run()


@pytest.fixture(scope="module")
def start(llama_folder: Path) -> Any:
    """Return a function that plays in a separate process, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", *MODULES])

    def started(run_dir: Path, way: str, last: int = 0) -> tuple[BaseProcess, int]:
        count = context.Value("i", 0)
        process = context.Process(target=play, args=(str(llama_folder), str(run_dir), way, last, count))
        process.start()
        process.join(120)
        return process, count.value

    return started


@pytest.mark.parametrize(("way", "kills"), [("full", 4), ("lora", 2)])
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_result(
    way: str, kills: int, start: Any, llama_folder: Path, tmp_path: Path
) -> None:
    """Weights of all arms, generations, journal and best equal those of an uninterrupted run, bit for bit."""
    whole = tmp_path / "whole"
    process, operations = start(whole, way)
    assert process.exitcode == 0
    assert operations > 100
    for number in range(kills):
        last = (2 * number + 1) * operations // (2 * kills)
        run_dir = tmp_path / f"killed-at-{last}"
        process, _ = start(run_dir, way, last)
        assert process.exitcode == -signal.SIGKILL
        result = build(llama_folder, run_dir, **settings(way)).run()
        assert steps(run_dir) == steps(whole)
        assert result.best_stage == Path(os.readlink(whole / "best")).parts[0]
        assert answers(run_dir, "iteration-1") == answers(whole, "iteration-1")
        for stage in ("iteration-1", "baseline/sft/iteration-1"):
            assert weights(run_dir / stage / "model") == weights(whole / stage / "model"), f"killed at {last}"
