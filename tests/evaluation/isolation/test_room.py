"""Hostile code can do nothing from inside the room. It runs only if namespaces have been shown to work."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from messages import refused
from spin_trl.errors import IsolationError, RecipeError
from spin_trl.evaluation.isolation import room as module
from spin_trl.evaluation.isolation.limits import Limits
from spin_trl.evaluation.isolation.room import Room, readable_paths

Play = Callable[..., dict[int, Any]]


def processes_of(user: int) -> list[str]:
    """Return process ids of a user, on this machine."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            found += [
                status.parent.name
                for line in status.read_text(encoding="utf-8").splitlines()
                if line.split() == uids(user)
            ]
    return found


def uids(user: int) -> list[str]:
    return ["Uid:", *[str(user)] * 4]


def test_the_value_of_an_expression_comes_out(hostile: Play) -> None:
    found = hostile("def double(x):\n    return 2 * x", "double([1, 'a'])", "double(21)")
    assert found[0]["value"] == ["list", [1, ["str", "a"], 1, ["str", "a"]]]
    assert found[1]["value"] == 42


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"], ids=["computing", "waiting"])
def test_an_endless_program_ends_in_time(hostile: Play, code: str) -> None:
    started = time.monotonic()
    assert hostile(code, "1", limits=Limits(seconds=2, cpu_seconds=1)) == {}
    assert time.monotonic() - started < 30  # far less on an idle machine; without a limit it never ends


def test_a_fork_bomb_does_not_fork(hostile: Play) -> None:
    found = hostile("import os\nuser = os.getuid()", "user", "[os.fork() for _ in range(1000)]", "1 + 1")
    assert found[1] == {"step": 1, "failed": "BlockingIOError"}
    assert found[2]["value"] == 2
    assert processes_of(found[0]["value"]) == []


def test_a_thread_counts_as_a_process(hostile: Play) -> None:
    found = hostile("import threading", "threading.Thread(target=print).start()")
    assert found[0]["failed"] == "RuntimeError"


def test_memory_beyond_the_limit_is_refused(hostile: Play) -> None:
    found = hostile("", "len(bytearray(10 << 30))", "len(bytearray(1 << 20))")
    assert found == {0: {"step": 0, "failed": "MemoryError"}, 1: {"step": 1, "value": 1 << 20}}


def test_printed_text_goes_nowhere(hostile: Play) -> None:
    assert hostile("import sys\nfor _ in range(1000): print('x' * 100_000)", "1")[0]["value"] == 1


def test_output_is_read_up_to_its_limit(hostile: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written without `print`, to every descriptor that may be the results'."""
    sizes: list[int] = []
    read = module._read_pipe

    def counting(*arguments: Any, **options: Any) -> bytes:
        found = read(*arguments, **options)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(module, "_read_pipe", counting)
    code = """
import os
open_ones = []
for descriptor in range(3, 64):
    try:
        os.fstat(descriptor)
        open_ones.append(descriptor)
    except OSError:
        pass
for _ in range(1 << 14):
    for descriptor in open_ones:
        try:
            os.write(descriptor, b"x" * (1 << 16))
        except OSError:
            pass
"""
    assert hostile(code, "1") == {}
    assert sizes[0] == 1_000_000


def test_files_outside_are_neither_read_nor_written(hostile: Play, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("as before", encoding="utf-8")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    code = f"""
import os
path, folder = {str(secret)!r}, {str(tmp_path)!r}
def attempt(act):
    try:
        return act() or "done"
    except OSError as error:
        return type(error).__name__
"""
    refusals = ["FileNotFoundError", "PermissionError", "OSError"]  # the last: a read-only file system
    steps = {
        "attempt(lambda: open(path).read())": refusals,
        "attempt(lambda: open(path, 'w').close())": refusals,
        "attempt(lambda: open(folder + '/new', 'w').close())": refusals,
        "attempt(lambda: os.symlink(path, 'link'))": ["done"],
        "attempt(lambda: open('link').read())": refusals,
        "attempt(lambda: open('link', 'w').close())": refusals,
        "attempt(lambda: open(os.__file__, 'a').close())": refusals,
        "attempt(lambda: open('/new', 'w').close())": refusals,
        "attempt(lambda: open('own', 'w').close())": ["done"],
    }
    found = hostile(code, *steps)
    for number, (step, expected) in enumerate(steps.items()):
        assert found[number]["value"][1] in expected, step
    assert secret.read_text(encoding="utf-8") == "as before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_no_network_is_reached(hostile: Play) -> None:
    """A server listens here, on TCP and on an abstract Unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0spin-trl-{os.getpid()}")
        local.listen()
        port = server.getsockname()[1]
        code = f"import socket\nname = {local.getsockname().decode()!r}"
        found = hostile(
            code,
            f"socket.create_connection(('127.0.0.1', {port}), 2)",
            "socket.socket(socket.AF_UNIX).connect(name)",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
        )
    assert set(found) == {0, 1, 2}
    assert all(one["failed"].endswith("Error") and "NotPlain" not in one["failed"] for one in found.values())


def test_no_secret_is_found(hostile: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none in the environment of any process, nor in the Hub's token file."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    token = tmp_path / "token"
    token.write_text("hf_secret", encoding="utf-8")
    token.chmod(0o666)
    found = hostile(
        "import glob, os",
        "dict(os.environ)",
        "[open(path, 'rb').read() for path in glob.glob('/proc/*/environ')]",
        f"open({str(token)!r}).read()",
    )
    assert found[0]["value"] == ["dict", []]
    assert found[1]["value"] == ["list", []]
    assert found[2]["failed"] in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize(
    "end", ["os._exit(0)", "sys.exit(0)", "raise SystemExit", "os.abort()", "os.kill(os.getpid(), 9)"]
)
def test_a_program_that_ends_itself_says_nothing(hostile: Play, end: str) -> None:
    found = hostile(f"import os, sys\n{end}", "1")
    assert found in ({}, {-1: {"step": -1, "failed": "SystemExit"}})


def test_signals_reach_nobody_else(hostile: Play) -> None:
    code = """
import os
def attempt(process):
    try:
        return os.kill(process, 9)
    except OSError as error:
        return type(error).__name__
"""
    found = hostile(code, "attempt(-1)", "attempt(os.getppid())", f"attempt({os.getpid()})", "'alive'")
    assert found[3]["value"] == [
        "str",
        "alive",
    ]  # the program's parent is alive, too; if it had ended, so would this process
    assert found[2]["value"] == ["str", "ProcessLookupError"]


def test_a_daemon_does_not_outlive_its_program(hostile: Play) -> None:
    """Even if processes are allowed, the kernel ends all that are left in the namespace."""
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in range(64):
        try:
            os.close(descriptor)
        except OSError:
            pass
    time.sleep(60)
    os._exit(0)
os.wait()
"""
    started = time.monotonic()
    found = hostile(code, "os.getuid()", limits=Limits(processes=8))
    assert time.monotonic() - started < 30
    user = found[0]["value"]
    assert user >= 0x7000_0000 or user == os.getuid() != 0
    if user != os.getuid():
        until = time.monotonic() + 10  # a killed process is listed until the kernel has taken it down
        while processes_of(user) and time.monotonic() < until:
            time.sleep(0.05)
        assert processes_of(user) == []


def test_what_is_left_in_the_work_folder_is_removed(
    hostile: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hostile("open('left', 'w').close()")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_can_not_be_put_on_is_named_and_nothing_runs(
    hostile: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, a path that should be visible inside no longer exists."""
    monkeypatch.setattr(module, "readable_paths", lambda: [str(tmp_path / "gone")])
    with refused(IsolationError, "'namespaces'", tmp_path / "gone"):
        hostile("", "1")
    assert issubclass(IsolationError, RecipeError)


def test_an_interpreter_that_can_not_start_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTRANCE", "raise OSError('no_such_library.so')")
    with refused(IsolationError, "no_such_library.so"):
        Room([]).play({"before": "", "code": "", "steps": []})


def test_code_may_read_python_and_the_systems_libraries() -> None:
    found = readable_paths()
    assert all(os.path.isabs(path) for path in found)
    assert any(Path(os.__file__).resolve().is_relative_to(path) for path in found)
    assert "/" not in found
    assert str(Path.home()) not in found
