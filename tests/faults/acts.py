"""Commands in separate processes, forked from one that has imported everything, so that a run takes a few seconds."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from undrawn import draw_nothing

from .writes import CACHE

TOP = Path(__file__).parents[2]

LONGEST = 240.0
"""Seconds after which a command is considered to hang."""

_LIBRARIES = (
    "PIL.features", "PIL.JpegImagePlugin", "bitsandbytes", "encodings.utf_8_sig", "matplotlib.backends.backend_mixed",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "peft.tuners.lora.bnb",
    "peft.utils.transformers_weight_conversion", "rich._unicode_data", "torch.profiler._cupti_monitor",
    "torch.utils.serialization.config", "transformers.models.llama.modeling_llama",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, or the negative number of the signal that ended it.
        output: what it printed.
        hung: whether it was ended because it took too long.
        process: its process id.
    """

    code: int
    output: str
    hung: bool = False
    process: int = 0


def import_everything() -> None:
    """Import what commands import while they run, so that forked ones don't."""
    import spin_trl

    for module in pkgutil.walk_packages(spin_trl.__path__, "spin_trl."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a run collects garbage after every phase, and need not go through all that was imported


def forked(
    folder: Path,
    arguments: Sequence[str],
    before: Callable[[], None] = lambda: None,
    interrupt: Interrupt | None = None,
) -> Ended:
    """Run `spin-trl` with these arguments in a child of this process.

    Args:
        folder: folder that it runs in, with the cache of `datasets`.
        arguments: arguments of the command line.
        before: called in the child before the command.
        interrupt: sends it a signal after some time.
    """

    def command() -> int:
        os.chdir(folder)
        import datasets.config

        from spin_trl.cli import main

        datasets.config.HF_DATASETS_CACHE = folder / CACHE
        draw_nothing(pytest.MonkeyPatch())
        before()
        return main(arguments)

    return in_a_child(command, interrupt)


def in_a_child(command: Callable[[], int], interrupt: Interrupt | None = None) -> Ended:
    """Call a function in a child of this process and return its result as the exit code; an exception is printed, and
    gives 1.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the second thread is an allocator's, which supports forks
        # Library functions that run in a child after a fork print a traceback if they are interrupted.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command sets its own handler
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _play(command, writing)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    return _watched(child, reading, interrupt)


def whole(folder: Path, arguments: Sequence[str], interrupt: Interrupt | None = None) -> Ended:
    """Do the same in a new Python process."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / CACHE), "PYTHONPATH": str(TOP)}
    process = subprocess.Popen(
        [sys.executable, "-m", "spin_trl", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    ended = _watched(process.pid, os.dup(process.stdout.fileno()), interrupt)
    process.stdout.close()
    process.returncode = ended.code  # it has already been waited for
    return ended


@dataclass(frozen=True)
class Interrupt:
    """A signal from outside.

    Attributes:
        number: number of the signal.
        after: seconds from the start of the command.
    """

    number: int
    after: float


def _play(command: Callable[[], int], output: int) -> None:
    """Act as the child, to the end of this process."""
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Output to a pipe is written at once, so that a kill loses none of it.
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1) for number in (1, 2))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = command()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watched(process: int, output: int, interrupt: Interrupt | None) -> Ended:
    """Wait for a process and read what it prints."""
    started, parts, hung = time.monotonic(), bytearray(), False
    while True:
        until = LONGEST if interrupt is None else interrupt.after
        ready, _, _ = select.select([output], [], [], max(until - (time.monotonic() - started), 0))
        if ready:
            part = os.read(output, 1 << 16)
            if not part:
                break
            parts += part
        elif interrupt is not None:
            os.kill(process, interrupt.number)
            interrupt = None
        else:
            hung = True
            os.kill(process, signal.SIGKILL)
            break
    os.close(output)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(code, parts.decode(errors="replace"), hung, process)
