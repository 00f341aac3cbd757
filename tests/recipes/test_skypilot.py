"""The task for SkyPilot plays one part of a generate phase with the options of the command line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from spin_trl.cli.entry import main
from spin_trl.config import shipped

TASK = Path(shipped.__file__).parents[2] / "recipes" / "skypilot" / "generate-part.yaml"


def test_it_is_no_recipe_and_no_accelerate_configuration() -> None:
    assert TASK not in (*shipped.recipes().values(), *shipped.accelerate_configs().values())
    assert yaml.safe_load(TASK.read_text(encoding="utf-8"))["envs"]["SHARD"] is None


def test_its_command_is_one_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in for `accelerate` prints the arguments; the command line takes them as far as the run, which is missing."""
    stand_in = tmp_path / "accelerate"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    stand_in.chmod(0o755)
    task = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    given = {**task["envs"], "SHARD": "2/4", "RUN": "no-such-run", "SKYPILOT_NUM_GPUS_PER_NODE": "1"}
    environment = {**os.environ, **given, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", task["run"]], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    arguments = done.stdout.splitlines()
    ours = arguments[arguments.index("spin_trl") + 1 :]
    assert ours == ["generate", "no-such-run", "--iteration", "0", "--shard", "2/4"]
    assert main(ours) == 2
    assert "no-such-run" in capsys.readouterr().err
