"""Only one process plays a run, even if the file system supports locks only within a machine, or not at all."""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from messages import names, refused
from spin_trl.errors import RunDirectoryError
from spin_trl.json_lines import JsonLines
from spin_trl.run import lock
from spin_trl.run.directory import LOCK, RunDirectory


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WATCHED_SECONDS", 0.5)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def left_by(machine: str) -> Path:
    """Write the lock file of a process on another machine."""
    Path("run").mkdir()
    path = Path("run", LOCK)
    path.write_text(json.dumps({"machine": machine, "process": 4321}), encoding="utf-8")
    return path


def test_whoever_has_the_lock_is_named() -> None:
    directory = RunDirectory("run")
    with directory.locked():
        with refused(RunDirectoryError, "run", "run_dir", os.getpid(), socket.gethostname()), directory.locked():
            pass
        with directory.locked(".phase.lock"):
            pass
    with directory.locked():
        pass
    assert Path("run", LOCK).read_text(encoding="utf-8") == ""


def test_another_machine_that_is_at_it_is_seen_without_a_lock() -> None:
    """Its lock file keeps changing, though its lock does not reach this machine."""
    path = left_by("node-7")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with refused(RunDirectoryError, "run", "node-7", 4321, "run_dir"), RunDirectory("run").locked():
            pass
    finally:
        ended.set()
        thread.join()


def test_a_machine_that_has_crashed_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    """The run starts once the file has not changed for a while. A message announces the wait."""
    left_by("node-7")
    with RunDirectory("run").locked():
        assert json.loads(Path("run", LOCK).read_text(encoding="utf-8"))["machine"] == socket.gethostname()
    assert any(names(message, "run", "node-7", 4321) for message in caplog.messages)


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WATCHED_SECONDS", 60.0)
    left_by(socket.gethostname())
    started = time.monotonic()
    with RunDirectory("run").locked():
        assert time.monotonic() - started < 10


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The second process is detected through the contents of the lock file. Journals and markers are still written."""
    caplog.set_level(logging.WARNING)
    directory = RunDirectory("run")
    with directory.locked():
        assert any(names(message, "run", LOCK) for message in caplog.messages)
        with refused(RunDirectoryError, "run", os.getpid()), directory.locked():
            pass
    directory.ownership.claim()
    directory.own("journal.jsonl")
    JsonLines(Path("run/journal.jsonl")).append({"a": 1})


def test_a_file_of_the_users_under_the_locks_name_stays() -> None:
    Path("run").mkdir()
    Path("run", LOCK).write_text("mine", encoding="utf-8")
    with RunDirectory("run").locked():
        pass
    assert Path("run", LOCK).read_text(encoding="utf-8") == "mine"


def test_a_process_that_is_ending_is_waited_for() -> None:
    """A phase launched by a killed loop has a few seconds to end."""
    first, held = threading.Event(), threading.Event()

    def hold() -> None:
        with RunDirectory("run").locked():
            held.set()
            first.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.2, first.set).start()
    with RunDirectory("run").locked(wait=20):
        pass
    thread.join()


@pytest.mark.usefixtures("no_locks")
def test_of_two_that_start_at_the_same_moment_one_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, neither sees the other's name before it has written its own."""
    monkeypatch.setattr(lock, "CONFIRM_SECONDS", 0.3)
    Path("run").mkdir()
    path = Path("run", "part.lock")

    def other() -> None:
        time.sleep(0.1)
        path.write_text(json.dumps({"machine": "node-7", "process": 4321}), encoding="utf-8")

    thread = threading.Thread(target=other)
    thread.start()
    with refused(RunDirectoryError, "node-7", 4321), lock.only_process(path, Path("run"), confirms=True):
        pass
    thread.join()
    assert json.loads(path.read_text(encoding="utf-8"))["machine"] == "node-7"  # still that one's


@pytest.mark.usefixtures("no_locks")
def test_one_that_is_alone_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "CONFIRM_SECONDS", 0.05)
    path = Path("part.lock")
    with lock.only_process(path, Path("run"), confirms=True):
        assert json.loads(path.read_text(encoding="utf-8"))["process"] == os.getpid()
    assert path.read_text(encoding="utf-8") == ""
