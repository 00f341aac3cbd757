"""Start a process behind layers of isolation, and read what it sends, from outside."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ...errors import IsolationError
from ...files import parse_json
from .inside import Layer
from .limits import Limits

_ENTRANCE = (
    "import sys; sys.path.append(sys.argv.pop()); from isolation.inside import play_task; sys.path.pop(); play_task()"
)
"""Program of the new interpreter. It knows the folder's modules as the package `isolation`, and imports nothing else."""

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")

_KILLED_AFTER = 5.0
"""Seconds that the end of a killed process may take, all processes of its namespace included."""


@dataclass(frozen=True)
class Played:
    """What came out of the room.

    Attributes:
        lines: lines that were sent, in order, after the one about the layers. They may be of any form.
        layers: layers that held.
    """

    lines: list[Any]
    layers: list[str]


@dataclass(frozen=True)
class Room:
    """A way to run generated code.

    Args:
        layers: layers of isolation to use, from [`inside.Layer`]; the environment is empty in any case.
        limits: limits of resources.
    """

    layers: Sequence[str] = tuple(Layer)
    limits: Limits = field(default_factory=Limits)

    def play(self, task: Mapping[str, Any]) -> Played:
        """Start a process, let it play a task, and end it and all that it has started.

        Args:
            task: `before`, `code` and `steps` of [`program.run_program`]; or `look_around`.

        Raises:
            IsolationError: if a layer can't be had. Nothing was run.
        """
        folder = tempfile.mkdtemp(prefix="spin-trl-code-")
        try:
            with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
                whole = {
                    **task,
                    "layers": list(self.layers),
                    "limits": asdict(self.limits),
                    "folder": folder,
                    "readable": readable_paths(),
                    "parent": os.getpid(),
                }
                given.write(json.dumps(whole).encode())
                given.seek(0)
                lines = _lines(self._output(given, said))
                said.seek(0)
                return _after_entrance(lines, said.read(2000).decode(errors="replace"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _output(self, given: IO[bytes], said: IO[bytes]) -> bytes:
        """Run the process and return its output, up to the limits."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _ENTRANCE, str(Path(__file__).parents[1])],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=said,
            env={},
            cwd="/",
            start_new_session=True,  # an interrupt in the terminal is for the run, which then ends this process
        )
        assert process.stdout is not None
        try:
            return _read_pipe(process.stdout, time.monotonic() + self.limits.seconds, self.limits.output)
        finally:
            process.kill()
            process.wait()
            # The output ends once the last process that could write to it is gone.
            _read_pipe(process.stdout, time.monotonic() + _KILLED_AFTER, sys.maxsize, keep=False)
            process.stdout.close()


def readable_paths() -> list[str]:
    """Return what code may read: Python's prefix and the system's libraries, links among them and what they lead to."""
    prefixes = {os.path.abspath(path) for path in (sys.base_prefix, sys.base_exec_prefix)}
    found = {path for path in (*prefixes, *_SYSTEM_LIBRARIES) if os.path.exists(path)}
    return sorted(found | {os.path.realpath(path) for path in found})


def _read_pipe(pipe: IO[bytes], deadline: float, most: int, *, keep: bool = True) -> bytes:
    """Read a pipe to its end, a time, or a number of bytes, whichever comes first."""
    found, size = bytearray(), 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while size < most and (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                break
            part = os.read(pipe.fileno(), min(1 << 16, most - size))
            if not part:
                break
            size += len(part)
            if keep:
                found += part
    return bytes(found)


def _lines(output: bytes) -> list[Any]:
    """Return the whole lines of JSON at the beginning of an output."""
    found = []
    *whole, _ = output.split(b"\n")
    with contextlib.suppress(ValueError):
        for line in whole:
            found.append(parse_json(line))
    return found


def _after_entrance(lines: list[Any], said: str) -> Played:
    """Return the lines of a program, if the first line says that the layers hold; raise if not."""
    first = lines[0] if lines else {}
    if "layers" in first:
        return Played(lines[1:], first["layers"])
    raise IsolationError(first.get("layer", ""), first.get("error") or said.strip() or "it was not ready in time")
