"""Runs checks one after the other, each in a separate process, so that a crash affects only its own check.

A process starts as a fork of this one, which has imported everything but computed nothing, because importing the stack takes
longer than many of the checks. CUDA can't be used in a fork of a process that has used it, so nothing may touch the driver
while the stack is imported ([`without_driver`]). If it was touched, processes are spawned and import the stack themselves.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .check import Check, Session, append, read

LOG = "gpu.log"
LEAST = 5.0
"""Minimum seconds left for a check to be started."""

_NOT_A_COPY = 71
"""Exit code of a forked process that can't use the GPU because it is a fork."""


def results_of(out: Path, *, tiny: bool) -> Path:
    """Return the results file; small shapes have a separate one, so that nothing is compared with them."""
    return out / ("tiny.jsonl" if tiny else "gpu.jsonl")


def play(checks: Sequence[Check], out: Path, *, minutes: float, tiny: bool, data: Path | None = None) -> bool:
    """Run checks, and report the outcome of each.

    Args:
        checks: checks in order of importance.
        out: folder of the results ([`results_of`]) and of the checks' output (`gpu.log`).
        minutes: time limit for all checks; each check may take its share of the time that is left.
        tiny: whether to use small shapes.
        data: folder of published datasets.

    Returns:
        Whether every check that can run here succeeded and met all targets.
    """
    out.mkdir(parents=True, exist_ok=True)
    results, ends = results_of(out, tiny=tiny), time.monotonic() + 60 * minutes
    append(results, {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "checks": [one.name for one in checks]})
    method = "spawn" if torch.cuda.is_initialized() else "fork"
    fine = True
    on_gpu = has_gpu()
    sessions = [(check, Session(check.name, results, out, tiny, on_gpu, data=data)) for check in checks]
    obstacles = {check.name: check.obstacle(session) for check, session in sessions}
    shares = sum(check.share for check in checks if obstacles[check.name] is None)
    for check, session in sessions:
        obstacle = obstacles[check.name]
        if obstacle is not None:
            session.not_here("all of it", obstacle)
            continue
        seconds = (ends - time.monotonic()) * check.share / shares  # time left over by earlier checks is shared too
        shares -= check.share
        if seconds < LEAST:
            append(results, {"check": check.name, "ended": "not begun", "reason": "no time was left"})
            fine = False
            continue
        started, log = time.monotonic(), out / LOG
        printed = log.stat().st_size if log.exists() else 0
        code = _play(check, session, log, seconds, method)
        if code == _NOT_A_COPY:
            method = "spawn"
            code = _play(check, session, log, seconds, method)
        ended = {"seconds": round(time.monotonic() - started, 1), **_outcome(code, seconds, log, printed)}
        append(results, {"check": check.name, **ended})
        fine &= code == 0
    return fine and all(line.get("met", True) for line in of_this_run(read(results)))


def of_this_run(lines: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the lines of the results after the last start of a run."""
    begun = [number for number, line in enumerate(lines) if "begun" in line]
    return lines[begun[-1] + 1 :] if begun else lines


@contextlib.contextmanager
def without_driver() -> Iterator[None]:
    """Keep imports inside the context from touching the GPU's driver, if `nvidia-smi` can answer instead.

    bitsandbytes, which peft imports, asks for the GPU's compute capability to choose its library. (`nvidia-smi` lists all
    cards, including those hidden by `CUDA_VISIBLE_DEVICES`: with mixed cards, the answer may be for a different card.)
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # whether there is a GPU, and how many
    capabilities = _capabilities()
    if not capabilities:
        yield
        return

    def answer(device: Any = None) -> tuple[int, int]:
        number = getattr(device, "idx", device)
        return capabilities[number if isinstance(number, int) and number >= 0 else 0]

    with mock.patch.object(torch.cuda, "get_device_capability", answer):
        yield


def _capabilities() -> list[tuple[int, int]]:
    """Return the compute capability of every GPU, as reported by `nvidia-smi`."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=30, check=True).stdout
        return [(int(major), int(minor)) for major, minor in (line.strip().split(".") for line in said.splitlines())]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def has_gpu() -> bool:
    """Return whether there is a GPU, without initialising its driver."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return torch.cuda.is_available()


def _play(check: Check, session: Session, log: Path, seconds: float, method: str) -> int | None:
    """Run a check; return its process's exit code, negative for the signal that killed it, or None if it ran out of time."""
    context: Any = multiprocessing.get_context(method)
    # Processes that are still ending may write to the folder while it is removed.
    with tempfile.TemporaryDirectory(prefix=f"spin-trl-gpu-{check.name}-", ignore_cleanup_errors=True) as folder:
        session.folder, session.started = Path(folder), time.monotonic()
        session.ends = session.started + seconds
        process = context.Process(target=_work, args=(check, session, log))
        sys.stdout.flush()
        process.start()
        try:
            process.join(seconds)
            out_of_time = process.is_alive()
        finally:  # it runs in a separate session, which our interrupts do not reach
            _end(process)
    return None if out_of_time else process.exitcode


def _end(process: BaseProcess) -> None:
    """Kill a process and its children: compilers, data loaders."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    if process.is_alive():  # it had not left our process group yet
        process.kill()
    process.join()


def _work(check: Check, session: Session, log: Path) -> None:
    """Run the check, in its process, with its output in the log."""
    os.setsid()  # a separate group, which can be killed as a whole
    with _printing_to(log, check.name):
        if session.on_gpu and not _can_compute():
            os._exit(_NOT_A_COPY)
        try:
            check.run(session)
        except BaseException:  # anything, including an exit, goes to the log
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)  # skip the shutdown of compilers and data loaders, which can hang


def _can_compute() -> bool:
    try:
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        traceback.print_exc()
        return False
    return True


@contextlib.contextmanager
def _printing_to(log: Path, title: str) -> Iterator[None]:
    """Redirect all output of this process, including its libraries', to a file."""
    with log.open("ab", buffering=0) as file:
        file.write(f"\n==== {title}\n".encode())
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in ("stdout", "stderr"):  # the parent may have replaced them
        setattr(sys, name, os.fdopen(1 if name == "stdout" else 2, "w", buffering=1, closefd=False))
    yield


def _outcome(code: int | None, seconds: float, log: Path, printed: int) -> dict[str, str]:
    """Describe the outcome of a check. The first `printed` bytes of the log belong to earlier checks."""
    if code == 0:
        return {"ended": "finished"}
    if code is None:
        return {"ended": "out of time", "reason": f"it was ended after {seconds:.0f} s"}
    if code < 0:
        return {"ended": "killed", "reason": f"by {signal.Signals(-code).name}"}
    text = log.read_bytes()[printed:].decode(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("====")]
    return {"ended": "raised", "reason": lines[-1][:300] if lines else f"exit code {code}"}


def table_of(results: Path) -> str:
    """Return the last run's results as text: device, versions, figures with targets and verdicts, and what did not run."""
    lines = of_this_run(read(results))
    rows = [("check", "figure", "value", "target", "verdict")]
    for line in lines:
        if "figure" in line:
            verdict = {True: "met", False: "MISSED", None: ""}[line.get("met")]
            rows.append((line["check"], line["figure"], number(line), line.get("target", ""), verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    parts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    parts.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{line['check']}: {line['note']}: {_plain(line['value'])}" for line in lines if "note" in line]
    ends = []
    for line in lines:
        if "not_on_this_device" in line:
            what = line["not_on_this_device"]
            ends.append(f"{line['check']}: {what}: not on this device: {line['reason']}")
        elif "ended" in line:
            took = f" after {line['seconds']} s" if "seconds" in line else ""
            ends.append(f"{line['check']}: {line['ended']}{took}{': ' + line['reason'] if 'reason' in line else ''}")
    return "\n".join([*notes, "", *parts, "", *ends])


def number(line: dict[str, Any]) -> str:
    """Format a figure with its unit, to four digits."""
    value = float(line["value"])
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{shown} {line['unit']}".strip()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value)
