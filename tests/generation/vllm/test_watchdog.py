"""The watchdog needs nothing but the standard library, and reports how its command ended."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from spin_trl.generation.vllm import watchdog
from spin_trl.generation.vllm.watchdog import CANT_START, descendants


def watched(*command: str, owner: int | None = None, wait: bool = True) -> tuple[int, str]:
    """Run a command under the watchdog. Return its exit code and output; without `wait`, close its pipe at once."""
    started = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, str(owner or os.getpid()), "0.2", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert started.stdout is not None
    assert started.stdin is not None
    if wait:
        code = started.wait(30)
        output = started.stdout.read()
    else:
        output, _ = started.communicate(timeout=30)
        code = started.returncode
    started.stdin.close()
    started.stdout.close()
    return code, output


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_it_is_a_program_of_the_standard_library() -> None:
    tree = ast.parse(Path(watchdog.__file__).read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert {name.partition(".")[0] for name in found} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("code", "reported"),
    [("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137), ("print('hello')", 0)],
)
def test_it_ends_as_its_command_does(code: str, reported: int) -> None:
    found, output = watched(*python(code))
    assert found == reported
    assert output == ("hello\n" if reported == 0 else "")


def test_a_command_that_is_not_there_is_named() -> None:
    found, output = watched("no-such-vllm")
    assert found == CANT_START
    assert "'no-such-vllm'" in output


def test_a_closed_pipe_ends_the_command() -> None:
    found, _ = watched(*python("import time; time.sleep(60)"), wait=False)
    assert found == 128 + signal.SIGTERM


def test_a_log_that_cannot_be_written_does_not_keep_the_command() -> None:
    """As on a full disk; here it is a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    started = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            watchdog.__file__,
            str(os.getpid()),
            "0.2",
            *python("import time; time.sleep(60)"),
        ],
        stdin=subprocess.PIPE,
        stdout=write,
    )
    os.close(write)
    started.communicate(timeout=30)
    assert started.returncode == 128 + signal.SIGTERM


def test_a_command_that_ignores_sigterm_is_killed() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('started', flush=True); time.sleep(60)"
    started = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), "0.2", *python(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    started.terminate()
    started.communicate(timeout=30)
    assert started.returncode == 128 + signal.SIGKILL


def test_it_ends_if_its_owner_is_another_process() -> None:
    """As after the death of the run: this process is the parent, but not the owner."""
    found, _ = watched(*python("import time; time.sleep(60)"), owner=1)
    assert found == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_the_command_is_told_to_end_if_the_watchdog_is_killed() -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), "0.2", *python(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as started:
        assert started.stdout is not None
        command = psutil.Process(int(started.stdout.readline()))
        started.kill()
        command.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_descendants_are_children_and_theirs() -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', 'print(1, flush=True); input()'])"
    )
    with subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        found = list(descendants())
        assert child.pid in found
        assert len(found) >= 2
        child.kill()
