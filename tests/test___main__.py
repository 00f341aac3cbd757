"""`python -m spin_trl` is the command wherever it is started, although Python would put that folder before its own
modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import spin_trl


def test_a_users_file_does_not_take_the_place_of_a_library(tmp_path: Path) -> None:
    for name in ("json.py", "yaml.py", "argparse.py"):
        (tmp_path / name).write_text("raise SystemExit('the user')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "spin_trl", "recipes"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(spin_trl.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout
