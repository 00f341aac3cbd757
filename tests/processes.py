"""Scripts that run as several processes on this machine, connected by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

TWO = ["--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
"""Options of `torch.distributed.run`."""


def launched(command: list[str]) -> None:
    """Run a module with these arguments as several processes, which find the tests' own modules by `TESTS_PATH`."""
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
