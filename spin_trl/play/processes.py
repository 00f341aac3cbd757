"""Runs `spin-trl` in processes of their own, several at a time, which can all be ended: the arms of a comparison."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Launches:
    """Command lines in processes of their own, which can all be ended."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, arguments: Sequence[str], output: Path, device: int | None) -> int:
        """Run `spin-trl` to its end.

        Args:
            arguments: of the command.
            output: file to which what it prints is added.
            device: which of the visible GPUs it is given; None: all.

        Returns:
            Its exit code.
        """
        if self._stopped:
            return 1
        environment = dict(os.environ)
        if device is not None:
            visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            environment["CUDA_VISIBLE_DEVICES"] = visible[device % len(visible)] if visible else str(device)
        with output.open("a", encoding="utf-8") as file:
            command = [sys.executable, "-m", "spin_trl", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        self._running.add(process)
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it keeps what it has finished
            process.wait()
            raise
        finally:
            self._running.discard(process)

    def stop(self) -> None:
        """End what runs; it keeps what it has finished. Start nothing more."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()
