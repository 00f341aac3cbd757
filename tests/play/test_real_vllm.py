"""Whole runs generate with the real vLLM, and leave no server behind.

`make test-vllm` sets the command of a real one, `VLLM_COMMAND`; without it, the servers replay `vllm_replay/recorded/runs`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import LoraConfig

import runs
from real_vllm import vllm_command
from spin_trl.generation.store import GenerationStore

SETTINGS: dict[str, Any] = {
    "engine": "vllm",
    "vllm_command": vllm_command("runs"),
    "vllm_args": ["--enforce-eager"],
}

MARK = "MARK_OF_THE_TEST"
"""Variable by which the processes of a test's servers are known from those of other tests."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@pytest.fixture(autouse=True)
def _mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))


def vllm_processes() -> list[int]:
    """Return all processes of servers that this test's runs have started: only servers have a key in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            is_ours = variables.get(MARK) == os.environ[MARK] and "VLLM_API_KEY" in variables
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def all_gone(seconds: float) -> bool:
    """Return whether all processes of servers end within this time."""
    deadline = time.monotonic() + seconds
    while vllm_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not vllm_processes()


@pytest.mark.parametrize("adapts", [False, True], ids=["full", "LoRA"])
def test_a_whole_run(adapts: bool, folder: Path) -> None:
    """Three iterations: every one is answered by vLLM, and trained against its own opponent."""
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if adapts else None
    session = runs.build(folder, num_iterations=3, peft_config=lora, **SETTINGS)
    result = session.run()
    assert list(result.figures) == ["start", "iteration-0", "iteration-1", "iteration-2"]
    for iteration in range(3):
        store = GenerationStore(session.state.directory.generations(f"iteration-{iteration}"))
        manifest = store.manifest()
        assert (manifest["engine"], manifest["repeats"]) == ("vllm", False)
        assert manifest["engine_version"].startswith("0.")
        assert len(store.table()) == len(session.state.self_play_rows())
        # The policy starts at the model that answered: log-ratios are zero, so the loss is ln 2.
        assert runs.entry("train", f"iteration-{iteration}")["first"]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert all_gone(10)


def test_no_server_outlives_a_run_that_is_killed(folder: Path, tmp_path: Path) -> None:
    """It is killed while the server answers or starts. The same command finishes the run."""
    recipe = runs.recipe(tmp_path / "r", folder, num_iterations=1, **SETTINGS)
    command = [sys.executable, "-m", "spin_trl", "run", str(recipe)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as player:
        deadline = time.monotonic() + 300
        while len(vllm_processes()) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(vllm_processes()) >= 3, "the watchdog, the server and its engine"
        player.kill()
    assert all_gone(60)
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    assert all_gone(10)
