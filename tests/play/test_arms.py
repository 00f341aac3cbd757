"""The arms of a comparison: their names, their processes, each with a GPU of its own, and the start that they share."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from spin_trl.play import arms
from spin_trl.play.arms import Arm, Launches


class Started:
    """Stands in for `subprocess.Popen`: keeps the environment that a process is given."""

    def __init__(self) -> None:
        self.gpus: list[str | None] = []

    def __call__(self, command: list[str], **options: Any) -> Started:
        self.gpus.append(options["env"].get("CUDA_VISIBLE_DEVICES"))
        assert options["stderr"] == subprocess.STDOUT
        return self

    def wait(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [
        (None, [0, 1, 3], ["0", "1", "3"]),
        ("4,6", [0, 1, 2], ["4", "6", "4"]),  # of those that a scheduler has given to this process
        ("4,6", [None], ["4,6"]),
        (None, [None], [None]),
    ],
)
def test_an_arm_gets_a_gpu_of_its_own(
    visible: str | None,
    devices: list[int | None],
    expected: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Started()
    monkeypatch.setattr(arms.subprocess, "Popen", started)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launches = Launches()
    assert [launches.run(["run", "x"], tmp_path / "output.txt", device) for device in devices] == [0] * len(devices)
    assert started.gpus == expected


def test_nothing_is_started_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started()
    monkeypatch.setattr(arms.subprocess, "Popen", started)
    launches = Launches()
    launches.stop()
    assert launches.run(["run", "x"], tmp_path / "output.txt", 0) == 1
    assert started.gpus == []


@pytest.mark.parametrize(
    ("name", "losses", "smoothing"),
    [
        ("space", {"space": 1.0}, None),
        ("space+sft", {"space": 1.0, "sft": 1.0}, None),
        ("0.5*sigmoid+0.1*sft", {"sigmoid": 0.5, "sft": 0.1}, None),
        ("sft", {}, 0.0),
        ("sft-smoothing-0.1", {}, 0.1),
    ],
)
def test_an_arm_is_named_by_its_losses(name: str, losses: dict[str, float], smoothing: float | None) -> None:
    found = Arm.parse(name)
    assert (found.name, dict(found.losses), found.label_smoothing) == (name, losses, smoothing)
