"""Runs the command on an input in a separate process, and judges the outcome.

The process is forked from one that has imported everything, which takes a hundredth of the time of a new one. Its time
and memory are limited. An exception that the command turns into a message is examined, too: if it is neither one of
the package's own errors nor one of the system's, the error is unforeseen, regardless of its message.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import gc
import io
import json
import os
import pwd
import re
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import datasets
import torch

import spin_trl
from spin_trl.cli import main
from spin_trl.errors import SpinError, full_disk

from .confined import confine

PACKAGE = Path(spin_trl.__file__).parent
INTERRUPTED = 130


class Kind(StrEnum):
    """The outcome of an input."""

    ACCEPTED = "accepted"
    REFUSED = "clear errors"
    TRACEBACK = "tracebacks"
    UNFORESEEN = "unforeseen"
    EXIT = "wrong exit codes"
    WRONG = "wrong results"
    HANG = "hangs"
    MEMORY = "out of memory"


WELL = (Kind.ACCEPTED, Kind.REFUSED)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a command.

    Attributes:
        seconds: CPU seconds after which it is ended, so that other processes make no difference.
        waiting: wall-clock seconds after which it is ended, for a command that waits and does nothing.
        memory: bytes in addition to those of the process that it is forked from.
    """

    seconds: int = 25
    waiting: float = 120.0
    memory: int = 3 * 2**30


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The judgement of an input.

    Attributes:
        kind: kind of the outcome.
        cause: class of the exception and the last line of the package that it passed, by which failures are grouped;
            or what else went wrong.
        message: last line of the command's or the exception's message.
        code: exit code; below 0, the signal that ended it.
        seconds: CPU seconds that it took.
        printed: everything that it wrote to stderr.
    """

    kind: Kind
    cause: str
    message: str
    code: int
    seconds: float
    printed: str

    @property
    def is_failure(self) -> bool:
        """Whether a user should not see it."""
        return self.kind not in WELL


def run_apart(
    arguments: list[str],
    folder: Path,
    before: Callable[[], object] | None = None,
    limits: Limits = Limits(),
    *,
    as_nobody: bool = False,
) -> tuple[int, float, int]:
    """Run the command in a separate process and in a folder. Its output goes into files next to it, such as
    `NAME.err`.

    Args:
        arguments: arguments of the command.
        folder: current folder of the process.
        before: called in that process first.
        limits: limits of the process.
        as_nobody: whether to drop all rights, if this process has those of root.

    Returns:
        The exit code, or a signal below 0; CPU seconds; the peak number of bytes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = _in_the_child(arguments, folder, before, limits, as_nobody)
        except BaseException:  # a mistake of the fuzzer itself
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code if isinstance(code, int) else 1)
    return _end_of(process, limits)


def _end_of(process: int, limits: Limits) -> tuple[int, float, int]:
    handle = os.pidfd_open(process)
    try:
        # A few seconds more than the process has, so that it can write down where it hangs.
        ended, _, _ = select.select([handle], [], [], limits.waiting + 5)
    finally:
        os.close(handle)
    if not ended:
        os.kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)  # its child processes
    seconds = usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(status)
    return (-signal.SIGALRM if not ended else code), seconds, usage.ru_maxrss * 1024


def _in_the_child(
    arguments: list[str], folder: Path, before: Callable[[], object] | None, limits: Limits, as_nobody: bool
) -> int:
    os.setsid()
    os.chdir(folder)
    torch.set_num_threads(1)  # threads of the process that this one is forked from do not exist here
    errors = _redirect(folder)
    record = folder.with_suffix(".json").open("w", encoding="utf-8")
    _limit(limits)
    cache = folder.with_suffix(".cache")
    cache.mkdir(exist_ok=True)
    datasets.config.HF_DATASETS_CACHE = cache  # every input reads its data again, like a user's first run
    os.environ["TMPDIR"] = tempfile.tempdir = str(cache)
    # The folder for uncached rows of the process that this one is forked from, if it has any, can't be written to from here.
    datasets.fingerprint._TEMP_DIR_FOR_TEMP_CACHE_FILES = None
    if not confine(folder, cache) and os.getuid() == 0:
        raise RuntimeError(
            "This machine has no Landlock, by which an input is kept in its folder: fuzz as a user that isn't root."
        )
    if as_nobody and os.getuid() == 0:
        _become_nobody(folder)
    if before is not None:
        before()
    faulthandler.enable(errors)
    faulthandler.register(signal.SIGXCPU, errors, all_threads=False, chain=True)
    faulthandler.dump_traceback_later(limits.waiting, exit=True, file=errors)
    escaped: BaseException | None = None
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        escaped, code = error, 1
        traceback.print_exc(file=errors)
    faulthandler.cancel_dump_traceback_later()
    for stream in (sys.stdout, errors):
        with contextlib.suppress(ValueError, OSError, AttributeError):  # some surroundings have none
            stream.flush()
    _write_down(record, escaped, errors.handled)
    return code


class _Errors(io.TextIOWrapper):
    """stderr, which records the exception that was handled while the command wrote its message."""

    handled: BaseException | None = None

    def write(self, text: str) -> int:
        if text.startswith("spin-trl"):
            self.handled = sys.exc_info()[1]
        return super().write(text)


def _redirect(folder: Path) -> _Errors:
    """Give the process no input, and redirect its output into files next to its folder."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, extension in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(folder.with_suffix(extension), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    # Like Python's own: characters that can't be encoded are escaped.
    file = io.FileIO(2, "w", closefd=False)
    sys.stderr = errors = _Errors(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return errors


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _become_nobody(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for path in (folder, folder.with_suffix(".cache")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    os.environ["HOME"] = str(folder)
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


def _write_down(record: TextIO, escaped: BaseException | None, handled: BaseException | None) -> None:
    """Return how this process ended, for the process that judges it."""
    foreseen = (SpinError, OSError, KeyboardInterrupt, SystemExit, argparse.ArgumentError)
    # A library reacts to a full disk in its own ways, also while it cleans up.
    is_foreseen = handled is None or isinstance(handled, foreseen) or full_disk(handled) is not None
    error = escaped or (None if is_foreseen else handled)
    if error is None:
        found: dict[str, Any] = {}
    else:
        try:
            said = str(error)
        except Exception as unsayable:
            said = f"(its text fails: {unsayable!r})"
        found = {
            "escaped": escaped is not None,
            "class": type(error).__name__,
            "message": said[-1000:],
            "place": _place(error),
            "memory": isinstance(error, MemoryError),
        }
    record.write(json.dumps(found))
    record.close()


def _place(error: BaseException) -> str:
    """Return the last line of the package that an exception has passed, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    last = frames[-1] if frames else None
    if not ours:
        return f"{Path(last.filename).name}:{last.name}" if last else "?"
    of_ours = f"{Path(ours[-1].filename).relative_to(PACKAGE.parent)}:{ours[-1].lineno} ({ours[-1].name})"
    return of_ours if last is None or last is ours[-1] else f"{of_ours}, in {Path(last.filename).name} ({last.name})"


_OF_MEMORY = re.compile(
    r"can't allocate memory|bad_alloc|Cannot allocate memory|MemoryError|realloc of size|malloc of size"
)
_OF_LINE = re.compile(r'File "([^"]*)", line (\d+) in (\w+)')


def judge(
    arguments: list[str],
    folder: Path,
    limits: Limits = Limits(),
    *,
    as_nobody: bool = False,
    before: Callable[[], object] | None = None,
) -> Outcome:
    """Give an input to the command, and return the outcome.

    Args:
        arguments: arguments of the command.
        folder: folder of the input, in which the command runs. Files named like it, with extensions, are written next
        to it.
        limits: limits of the command.
        as_nobody: whether to run it as a user without rights.
        before: called in the process of the command first.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    code, seconds, most = run_apart(arguments, folder, before, limits, as_nobody=as_nobody)
    printed = folder.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
    record = folder.with_suffix(".json")
    known = record.read_text(encoding="utf-8") if record.is_file() else ""
    found: dict[str, Any] = json.loads(known) if known else {}
    said = [line for line in printed.splitlines() if line.startswith("spin-trl")]
    lines = printed.strip().splitlines()
    message = said[-1] if said else lines[-1] if lines else ""

    def outcome(kind: Kind, cause: str = "", text: str = message) -> Outcome:
        return Outcome(kind, cause, text[:500], code, seconds, printed)

    cause = f"{found['class']} at {found['place']}" if found else ""
    if "Timeout (" in printed or code in (-signal.SIGALRM, -signal.SIGXCPU):
        return outcome(Kind.HANG, f"hang at {_place_of_hang(printed)}", "")
    if (
        found.get("memory")
        or most - own > limits.memory
        or (code not in (0, 2) and _OF_MEMORY.search(printed[-3000:]))
    ):
        return outcome(Kind.MEMORY, cause or "memory", found.get("message", message))
    if code < 0 or (not known and code != 0):
        return outcome(
            Kind.EXIT, f"ended by {code if code >= 0 else signal.Signals(-code).name} at {_place_of_hang(printed)}"
        )
    if found.get("escaped") or "Traceback (most recent call last)" in printed:
        return outcome(Kind.TRACEBACK, cause or f"printed: {message}", found.get("message", message))
    if found:
        return outcome(Kind.UNFORESEEN, cause, found["message"])
    if code == 0:
        return outcome(Kind.ACCEPTED)
    if code not in (1, 2, INTERRUPTED) or not said:
        return outcome(Kind.EXIT, f"exit code {code}" + ("" if said else " without a message"))
    return outcome(Kind.REFUSED)


def _place_of_hang(printed: str) -> str:
    """Return the innermost line of the package in the stack that the process has left."""
    for path, line, name in _OF_LINE.findall(printed):
        if Path(path).is_relative_to(PACKAGE):
            return f"{Path(path).relative_to(PACKAGE.parent)}:{line} ({name})"
    return "?"


# ---- imports ---------------------------------------------------------------------------------------------------------


def import_all(folder: Path, *commands: list[str]) -> None:
    """Import everything here that commands import while they run, so that forked processes need not.

    Args:
        folder: folder in which the commands can be run.
        commands: arguments of each command.
    """

    def note_at_the_end() -> None:
        before = set(sys.modules)
        end = os._exit

        def note(code: int) -> None:
            news = [name for name in sys.modules if name not in before]
            (folder / "imported").write_text("\n".join(news), encoding="utf-8")
            end(code)

        os._exit = note  # type: ignore[assignment]

    for arguments in commands:
        code, _, _ = run_apart(arguments, folder, note_at_the_end)
        if code:
            said = folder.with_suffix(".err").read_text(encoding="utf-8")
            raise RuntimeError(f"`spin-trl {' '.join(arguments)}` ended with {code} on what is in order: {said}")
        for name in (folder / "imported").read_text(encoding="utf-8").split():
            with contextlib.suppress(Exception):
                __import__(name)
    gc.freeze()
