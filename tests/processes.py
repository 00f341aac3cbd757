"""Processes that tests start on this machine: several connected by gloo, or one that computes as the test does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

TWO = ["--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
"""Options of `torch.distributed.run`."""


def alike(**more: str) -> dict[str, str]:
    """Return the environment of a process that must compute bit for bit what this one does: the thread count affects
    rounding.
    """
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **more}


def launched(command: list[str]) -> None:
    """Run a module with these arguments in several processes, which find the tests' own modules by `TESTS_PATH`."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TESTS_PATH": json.dumps([str(Path(__file__).parent)])},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
