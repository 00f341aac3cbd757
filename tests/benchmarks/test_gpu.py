"""In `benchmarks/gpu.py`, a failing check does not affect the others' figures, and a CPU runs what it can."""

import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # last, because its files share names with the tests' folders

from gpu_checks import check as checks
from gpu_checks import pretrained, runner
from gpu_checks.check import Check, Session
from messages import names


def measures(value: float) -> Callable[[Session], None]:
    def run(session: Session) -> None:
        session.figure("answer", value, "x")

    return run


def is_killed(session: Session) -> None:
    session.figure("before", 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(session: Session) -> None:
    """Sleep with a child process, like a compiler."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    session.figure("child", child.pid)
    time.sleep(60)


def raises(session: Session) -> None:
    print("on the way")
    raise ValueError("the logits are NaN")


def exits(session: Session) -> None:
    sys.exit("no such recipe")


def lines_of(out: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in results(out) if line.get("check") == name]


def results(out: Path) -> list[dict[str, Any]]:
    return checks.read(runner.results_of(out, tiny=True))


def table(out: Path) -> str:
    return runner.table_of(runner.results_of(out, tiny=True))


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST", 0.0)


@pytest.mark.usefixtures("_quick")
def test_each_check_fails_alone(tmp_path: Path) -> None:
    """One is killed, one exceeds its time, one raises, one exits: their figures are kept, and the other checks run."""
    chosen = [
        Check("first", "", measures(1.0), 30),
        Check("killed", "", is_killed, 30),
        Check("slow", "", sleeps, 2),
        Check("broken", "", raises, 30),
        Check("gone", "", exits, 30),
        Check("last", "", measures(2.0), 30),
    ]
    started = time.monotonic()
    assert not runner.play(chosen, tmp_path, minutes=2, tiny=True)
    assert time.monotonic() - started < 50
    ended = {line["check"]: line for line in results(tmp_path) if "ended" in line}
    assert {name: line["ended"] for name, line in ended.items()} == {
        "first": "finished",
        "killed": "killed",
        "slow": "out of time",
        "broken": "raised",
        "gone": "raised",
        "last": "finished",
    }
    assert names(ended["killed"]["reason"], "SIGKILL")
    assert re.search(r"\b[123] s\b", ended["slow"]["reason"])  # 2 of 92 shares of at most 120 s
    assert ended["broken"]["reason"] == "ValueError: the logits are NaN"
    assert "no such recipe" in ended["gone"]["reason"]
    first = lines_of(tmp_path, "first")[0]
    assert first.pop("at") < 5
    assert first == {"check": "first", "figure": "answer", "value": 1.0, "unit": "x"}
    assert lines_of(tmp_path, "killed")[0]["figure"] == "before"
    assert lines_of(tmp_path, "last")[0]["value"] == 2.0
    child = int(lines_of(tmp_path, "slow")[0]["value"])  # the slow check's child process is gone too
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert "on the way" in (tmp_path / runner.LOG).read_text(encoding="utf-8")
    shown = table(tmp_path)
    assert "slow: out of time after " in shown
    assert "broken: raised after" in shown


@pytest.mark.usefixtures("_quick")
def test_a_check_that_has_no_time_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST", 5.0)
    chosen = [
        Check("first", "", measures(1.0), 30),
        Check("second", "", measures(2.0), 1),
        Check("third", "", raises, 30),
    ]
    assert not runner.play(chosen, tmp_path, minutes=0.5, tiny=True)
    assert lines_of(tmp_path, "second") == [{"check": "second", "ended": "not begun", "reason": "no time was left"}]
    assert lines_of(tmp_path, "first")[0]["value"] == 1.0


def test_what_a_check_needs_is_named(tmp_path: Path) -> None:
    """It is not a failure: a CPU runs the parts that it can."""
    chosen = [
        Check("gpu", "", measures(1.0), 30, (checks.gpu,)),
        Check("package", "", measures(1.0), 30, (checks.Package("no_such_package"),)),
    ]
    assert runner.play(chosen, tmp_path, minutes=1, tiny=True)
    gpu, package = (line["reason"] for line in results(tmp_path) if "reason" in line)
    assert names(gpu, "GPU")
    assert names(package, "no_such_package")
    assert f"gpu: all of it: not on this device: {gpu}" in table(tmp_path)


def test_the_experiment_on_a_pretrained_model_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the data first, then the model, fetched or as a file next to the data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = Session("pretrained", tmp_path / "results", tmp_path, True, False)
    assert names(str(pretrained.data_and_model(session)), "--data")
    session.data = tmp_path / "data"
    assert names(str(pretrained.data_and_model(session)), tmp_path / "data")
    (tmp_path / "data" / "svamp").mkdir(parents=True)
    assert names(str(pretrained.data_and_model(session)), "spin-trl fetch smollm2-135m")
    (tmp_path / "data" / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    assert pretrained.data_and_model(session) is None


@pytest.mark.parametrize(
    ("value", "bounds", "met"),
    [
        (1.0, {"at_least": 1.0}, True),
        (0.9, {"at_least": 1.0}, False),
        (1.0, {"at_most": 1.0}, True),
        (1.1, {"at_most": 1.0}, False),
        (1.1, {"at_least": 0.7, "at_most": 1.3}, True),
        (math.nan, {"at_most": 1.0}, False),
        (math.nan, {"at_least": 1.0}, False),
        (1.0, {}, None),
    ],
)
def test_a_target_is_met_or_missed(tmp_path: Path, value: float, bounds: dict[str, float], met: bool | None) -> None:
    session = Session("one", tmp_path / "results", tmp_path, True, False)
    session.figure("figure", value, **bounds)
    (line,) = checks.read(session.results)
    assert line.get("met") is met


@pytest.mark.usefixtures("_quick")
def test_a_missed_target_is_a_failure(tmp_path: Path) -> None:
    """Results of an earlier run in the same folder neither count nor are shown."""

    def misses(session: Session) -> None:
        session.figure("speed", 0.5, at_least=1.0)

    def reads(session: Session) -> None:
        assert session.reported("one") == {"speed": 0.5}

    assert not runner.play([Check("one", "", misses, 30)], tmp_path, minutes=1, tiny=True)
    assert "MISSED" in table(tmp_path)
    assert runner.play([Check("two", "", measures(1.0), 30)], tmp_path, minutes=1, tiny=True)
    assert "MISSED" not in table(tmp_path)
    assert runner.play([Check("three", "", reads, 30)], tmp_path, minutes=1, tiny=True)


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    """A process killed while writing leaves half a line."""
    results = tmp_path / "results"
    session = Session("one", results, tmp_path, True, False)
    session.figure("whole", 1.0)
    with results.open("a", encoding="utf-8") as file:
        file.write('{"check": "one", "fig')
    session.figure("next", 2.0)
    assert session.reported() == {"whole": 1.0, "next": 2.0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0], 2.0), ([math.nan, 1.0], math.nan), ([1.0, math.nan], math.nan), ([], math.nan)],
)
def test_the_largest_of_values_is_nan_if_one_is(values: list[float], expected: float) -> None:
    """A distance that is NaN must not pass for 0."""
    assert checks.largest(values) == pytest.approx(expected, nan_ok=True)


def test_without_a_gpu_real_shapes_are_not_played(tmp_path: Path) -> None:
    real = Session("one", tmp_path / "results", tmp_path, tiny=False, on_gpu=False)
    assert names(str(checks.gpu_or_tiny(real)), "GPU", "`--tiny`")
    assert checks.gpu_or_tiny(dataclasses.replace(real, tiny=True)) is None
    assert checks.gpu_or_tiny(dataclasses.replace(real, on_gpu=True)) is None


@pytest.mark.slow
def test_a_cpu_plays_what_a_cpu_can(tmp_path: Path) -> None:
    """The whole script runs with small shapes: every check succeeds, or reports why it does not run on this device."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--minutes", "8", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=550)
    log = tmp_path / runner.LOG
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text(errors="replace", encoding="utf-8")[-5000:]
    lines = results(tmp_path)
    ended = {line["check"]: line["ended"] for line in lines if "ended" in line}
    assert ended == dict.fromkeys(
        ("device", "correctness", "training", "t4", "generation", "generation-3b", "plan"), "finished"
    )
    (left_out,) = [line for line in lines if line.get("check") == "lora-3b"]
    assert (left_out["not_on_this_device"], left_out["reason"]) == ("all of it", "there is no GPU")
    compared = [one for one in lines if one.get("check") == "correctness" and "gradients" in one.get("figure", "")]
    assert sum("met" in line for line in compared) == 4  # full and LoRA, float32 and bfloat16
    figures = {(line["check"], line["figure"]): line["value"] for line in lines if "figure" in line}
    assert figures["t4", "iterations"] == 3
    assert figures["t4", "numbers that are NaN or infinite"] == 0
    speeds = {name: value for (check, name), value in figures.items() if check == "generation-3b"}
    assert {name for name in speeds if name.endswith(": useful tokens")} == {
        f"{arm}: useful tokens" for arm in ("ours, 8 rows", "ours, 2 rows", "continuous batching")
    }
    assert min(speeds.values()) > 0
    assert figures["correctness", "full, gathered rows, float32: gradients"] < 1e-4
    assert [line["note"] for line in lines if "note" in line] == ["versions", "device"]
    for line in done.stdout.splitlines():
        assert len(line) < 200
