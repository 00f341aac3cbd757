"""Checks and their sessions, which provide a working folder, a device, a time limit, and a place to report figures."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Need = Callable[["Session"], str | None]
"""Function that returns why a check can't run in a session, or None if it can."""


@dataclass(frozen=True)
class Check:
    """One check. To add one, write a function that takes a `Session`, and list it in `checks.py`.

    Attributes:
        name: name on the command line and in the results.
        about: one-line description of what it measures.
        run: function that runs it, in a separate process, and reports figures as soon as they are known.
        share: share of the remaining time, relative to the checks after it; its process is killed when the time is up.
        needs: conditions for running it.
    """

    name: str
    about: str
    run: Callable[[Session], None]
    share: float
    needs: tuple[Need, ...] = ()

    def obstacle(self, session: Session) -> str | None:
        """Return why it can't run here, or None if it can."""
        return next((reason for need in self.needs if (reason := need(session)) is not None), None)


@dataclass
class Session:
    """The environment of a check.

    Attributes:
        check: name of the check.
        results: JSON Lines file to which every figure is appended immediately.
        folder: folder for the check's own files; removed afterwards.
        tiny: whether to use small shapes, to test that the check runs.
        on_gpu: whether there is a GPU. Without one, a check runs the parts that work on a CPU.
        ends: time at which the process will be killed, as by `time.monotonic`.
        started: time at which it was started; every line of the results gives the seconds since then.
        data: folder of published datasets, for the check that needs them.
    """

    check: str
    results: Path
    folder: Path
    tiny: bool
    on_gpu: bool
    ends: float = field(default=float("inf"))
    started: float = field(default_factory=time.monotonic)
    data: Path | None = None

    @property
    def device(self) -> str:
        """The device's name in torch."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def seconds_left(self) -> float:
        """Seconds until the process is killed."""
        return self.ends - time.monotonic()

    def figure(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Report a figure; it is on disk when this returns.

        Args:
            name: name of the figure.
            value: value of the figure; NaN never meets a target.
            unit: unit of the value.
            at_most, at_least: bounds of the target, or None.
        """
        line: dict[str, Any] = {"figure": name, "value": value, "unit": unit}
        if at_most is not None or at_least is not None:
            fine = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
            target = " and ".join(
                f"{word} {bound:g}"
                for word, bound in (("at least", at_least), ("at most", at_most))
                if bound is not None
            )
            line |= {"target": target, "met": fine}
        self._append(line)

    def note(self, name: str, value: Any) -> None:
        """Report something that is not a number: names, versions, lists."""
        self._append({"note": name, "value": value})

    def not_here(self, what: str, reason: str) -> None:
        """Report that a part of the check does not run on this device."""
        self._append({"not_on_this_device": what, "reason": reason})

    def _append(self, line: Mapping[str, Any]) -> None:
        append(self.results, {"check": self.check, **line, "at": round(time.monotonic() - self.started, 1)})

    def reported(self, check: str | None = None) -> dict[str, float]:
        """Return the figures so far by name, for this check or another one."""
        found = (line for line in read(self.results) if line.get("check") == (check or self.check))
        return {line["figure"]: line["value"] for line in found if "figure" in line}


def append(results: Path, line: Mapping[str, Any]) -> None:
    """Append a line to the results and flush it to the disk: the process may be killed at any time."""
    with results.open("a+b") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        after_half_a_line = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * after_half_a_line + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(results: Path) -> list[dict[str, Any]]:
    """Return all lines of the results, skipping incomplete lines left by a killed process."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def gpu(session: Session) -> str | None:
    """Condition of a check that needs a GPU."""
    return None if session.on_gpu else "there is no GPU"


def gpu_or_tiny(session: Session) -> str | None:
    """Condition of a check that needs a GPU for its real shapes."""
    return None if session.on_gpu or session.tiny else "there is no GPU (`--tiny` plays small shapes)"


def largest(values: Iterable[float]) -> float:
    """Return the largest value; NaN if any value is NaN, which `max` could miss, or if there are no values."""
    found = list(values)
    return max(found) if found and not any(map(math.isnan, found)) else math.nan


@dataclass(frozen=True)
class Package:
    """Condition of a check that needs a package."""

    name: str

    def __call__(self, session: Session) -> str | None:
        """Return why the check can't run here, or None if it can."""
        return None if importlib.util.find_spec(self.name) is not None else f"{self.name} is not installed"
