"""Processes started by a loop end with it, even if it is killed; those started by hand do not depend on a loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from runs import build, recipe
from spin_trl.play import parent, phases
from spin_trl.play.comparison.arms import Launches
from spin_trl.play.parent import PARENT_PIPE, end_with_parent, held_pipe
from spin_trl.play.phases import by_accelerate

# Hangs as in a collective operation and ignores SIGTERM. It has started a process itself.
WORKER = """
import signal, subprocess, sys, time
from spin_trl.play import parent
parent.SECONDS_TO_END = 0.2
signal.signal(signal.SIGTERM, lambda *_: open("told", "w").close())
parent.end_with_parent()
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(below.pid, flush=True)
while True:
    time.sleep(60)
"""

# Like `accelerate launch` and PyTorch's launcher, it has its own session and inherits nothing.
LAUNCHER = (
    "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True); input()"
)

LOOP = """
import os, subprocess, sys, time
from spin_trl.play.parent import held_pipe
with held_pipe() as watched:
    command = [sys.executable, "-c", *sys.argv[1:]]
    subprocess.Popen(command, env={**os.environ, **watched}, start_new_session=True, stdin=subprocess.PIPE)
    time.sleep(60)
"""


def ends(pid: int, seconds: float) -> bool:
    """Return whether a process ends within this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_workers_and_their_workers_end_with_a_loop_that_is_killed() -> None:
    """They end even if one hangs, and the launcher between them closes inherited descriptors."""
    loop = subprocess.Popen(
        [sys.executable, "-c", LOOP, LAUNCHER, WORKER],
        env={**os.environ, "PYTHONPATH": str(Path(parent.__file__).parents[2])},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert loop.stdout is not None
    pids = [int(loop.stdout.readline()) for _ in range(2)]
    assert not any(ends(pid, 0.1) for pid in pids)
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    assert all(ends(pid, 10) for pid in pids)
    assert Path("told").exists()


def test_a_process_that_no_loop_has_started_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is a phase started by hand, or as a Slurm job."""
    monkeypatch.delenv(PARENT_PIPE, raising=False)
    before = threading.active_count()
    end_with_parent()
    assert threading.active_count() == before


def test_a_launched_phase_and_an_arm_know_their_loop(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe exists while they run."""
    pipes: list[Path] = []

    class Launched:
        stdout = None

        def __init__(self, command: list[str], **options: Any) -> None:
            pipes.append(Path(options["env"][PARENT_PIPE]))

        def wait(self) -> int:
            assert pipes[-1].is_fifo()
            return 0

    monkeypatch.setattr(phases.subprocess, "Popen", Launched)
    config = Path("one.yaml")
    config.write_text(yaml.safe_dump({"distributed_type": "NO", "num_processes": 1}), encoding="utf-8")
    by_accelerate(build(llama_folder, accelerate_config=str(config)).state, "train", 0)
    Launches().run(["run", "x"], Path("output.txt"), None)
    assert len(pipes) == 2
    assert not any(pipe.parent.exists() for pipe in pipes)


def test_without_named_pipes_processes_are_started_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(parent.os, "mkfifo", refuse)
    with held_pipe() as watched:
        assert watched == {}


@pytest.mark.slow
def test_no_process_of_a_launched_phase_outlives_its_loop(llama_folder: Path, tmp_path: Path) -> None:
    """`accelerate launch` and its two workers end by themselves when the loop is killed."""
    config = tmp_path / "two.yaml"
    settings = {"distributed_type": "MULTI_GPU", "num_processes": 2, "use_cpu": True, "main_process_port": 0}
    config.write_text(yaml.safe_dump({**settings, "num_machines": 1, "machine_rank": 0}), encoding="utf-8")
    saving = {"save_strategy": "steps", "save_steps": 1}
    path = recipe(tmp_path / "my", llama_folder, num_train_epochs=2000, accelerate_config=str(config), **saving)
    command = [sys.executable, "-m", "spin_trl", "run", str(path)]
    nowhere = subprocess.DEVNULL
    loop = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=nowhere, stderr=nowhere)
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 240
    while len(started) < 3 and time.monotonic() < deadline:
        assert loop.poll() is None
        time.sleep(0.2)
        below = psutil.Process(loop.pid).children(recursive=True)
        started = below if list(tmp_path.glob("my/run/iteration-0/train/checkpoint-*")) else []
    assert len(started) == 3
    loop.kill()
    loop.wait()
    assert all(ends(process.pid, 10) for process in started)


@pytest.mark.parametrize("named", ["a file", "a pipe", "missing", "a folder"])
def test_only_a_loops_own_pipe_is_removed(tmp_path: Path, named: str) -> None:
    """The variable may have any value: the files that it names, and those next to them, are kept."""
    (tmp_path / "a file").write_text("mine", encoding="utf-8")
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "a folder").mkdir()
    before = sorted(tmp_path.iterdir())
    parent._remove_pipe(str(tmp_path / named))
    assert sorted(tmp_path.iterdir()) == before
    with held_pipe() as environment:
        pipe = Path(environment[PARENT_PIPE])
        (pipe.parent / "mine").write_text("mine", encoding="utf-8")
        parent._remove_pipe(str(pipe))
        assert not pipe.exists()
        assert (pipe.parent / "mine").exists()
