"""What a check is, and what it is given: a place to work in, a device, seconds, and somewhere to report figures to."""

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
"""Why a check can't be played in a session, or None."""


@dataclass(frozen=True)
class Check:
    """One check. To add one, write a function that takes a `Session`, and list it in `checks.py`.

    Attributes:
        name: on the command line and in the results.
        about: what it finds out, in a line.
        run: plays it in a process of its own, and reports figures as soon as they are known.
        share: of the time that is left, against those of the checks after it: then its process is ended.
        needs: what it can't be played without.
    """

    name: str
    about: str
    run: Callable[[Session], None]
    share: float
    needs: tuple[Need, ...] = ()

    def obstacle(self, session: Session) -> str | None:
        """Why it can't be played here, or None."""
        return next((reason for need in self.needs if (reason := need(session)) is not None), None)


@dataclass
class Session:
    """What a check is given.

    Attributes:
        check: its name.
        results: JSON lines, to which every figure is appended at once.
        folder: for the check's own files; removed afterwards.
        tiny: play small shapes, to see that the check runs.
        on_gpu: whether there is a GPU. Without one a check plays what a CPU can.
        ends: when the process will be ended, by `time.monotonic`.
        started: when it was begun; every line of the results says how many seconds ago that was.
    """

    check: str
    results: Path
    folder: Path
    tiny: bool
    on_gpu: bool
    ends: float = field(default=float("inf"))
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        """As torch names it."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def seconds_left(self) -> float:
        """Until the process is ended."""
        return self.ends - time.monotonic()

    def figure(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Report a figure, which is on disk when this returns.

        Args:
            name: of the figure.
            value: NaN never meets a target.
            unit: of the value.
            at_most, at_least: the target; None: there is none.
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
        """Report something that is no number: names, versions, lists."""
        self._append({"note": name, "value": value})

    def not_here(self, what: str, reason: str) -> None:
        """Report that a part of the check is not played on this device."""
        self._append({"not_on_this_device": what, "reason": reason})

    def _append(self, line: Mapping[str, Any]) -> None:
        append(self.results, {"check": self.check, **line, "at": round(time.monotonic() - self.started, 1)})

    def reported(self, check: str | None = None) -> dict[str, float]:
        """Figures so far, by name: of this check, or of another one."""
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
    """All lines of the results; half a line, which a killed process may leave, is passed over."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def gpu(session: Session) -> str | None:
    """A check's need of a GPU."""
    return None if session.on_gpu else "there is no GPU"


def gpu_or_tiny(session: Session) -> str | None:
    """A check's need of a GPU for its real shapes."""
    return None if session.on_gpu or session.tiny else "there is no GPU (`--tiny` plays small shapes)"


def largest(values: Iterable[float]) -> float:
    """The largest of some values; NaN if one is NaN, which `max` would pass over, or if there is none."""
    found = list(values)
    return max(found) if found and not any(map(math.isnan, found)) else math.nan


@dataclass(frozen=True)
class Package:
    """A check's need of a package."""

    name: str

    def __call__(self, session: Session) -> str | None:
        """Why the check can't be played here, or None."""
        return None if importlib.util.find_spec(self.name) is not None else f"{self.name} is not installed"
