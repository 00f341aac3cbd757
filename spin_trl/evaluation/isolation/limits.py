"""The fourth layer: limits of resources. The wall clock and the output are limited from outside ([`room`])."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a process that runs generated code.

    Attributes:
        seconds: seconds by the wall clock, from its start to its end.
        cpu_seconds: seconds of computing.
        memory: bytes of address space.
        file_size: bytes of a file, and of all files if they are in memory.
        files: number of open files.
        output: bytes of results that are read.
        processes: number of other processes and threads that it may start.
    """

    seconds: float = 20.0
    cpu_seconds: int = 5
    memory: int = 1 << 30
    file_size: int = 1 << 24
    files: int = 64
    output: int = 1_000_000
    processes: int = 0

    def apply(self) -> None:
        """Limit this process. A limit that is already lower stays.

        Raises:
            OSError, ValueError: if the system refuses a limit.
        """
        for which, most in (
            (resource.RLIMIT_CPU, self.cpu_seconds),
            (resource.RLIMIT_AS, self.memory),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, self.files),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(which)[1]
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (value, value))
