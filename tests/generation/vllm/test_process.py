"""A server is ready when it answers with its own key, and no process of it outlives the run, however the run ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import spin_trl
from fake_vllm import all_gone, fake_vllm, processes_below, starts_of
from messages import names, refused
from spin_trl.errors import LaunchError
from spin_trl.generation.vllm import process
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server, free_port, processes_in_session, vllm_version

FLAGS = Flags("a model", "theta-1")


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_is_ready_when_it_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with Server(FLAGS, log, fake_vllm(tmp_path, ready_after=0.3)) as server:
        assert not server.is_ready()
        wait_for(server.is_ready)
        assert len(processes_below(tmp_path)) == 2  # the watchdog and the server
        assert server.url == f"http://127.0.0.1:{server.port}"
        [start] = starts_of(tmp_path)
        assert start["arguments"][:2] == ["serve", "a model"]
        assert start["environment"]["VLLM_API_KEY"] == server.key
        assert server.key not in start["arguments"]
    assert processes_below(tmp_path) == []
    server.end()  # nothing is left to end


def test_every_server_has_its_own_key(tmp_path: Path) -> None:
    first, second = (Server(FLAGS, tmp_path / "log") for _ in range(2))
    assert first.key != second.key
    assert len(first.key) >= 40


def test_a_server_with_another_key_is_not_this_one(tmp_path: Path) -> None:
    """On the same port, it would be healthy, too."""
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, other_key="x")) as server:
        wait_for(lambda: starts_of(tmp_path))
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert not server.is_ready()


def test_a_server_that_is_healthy_but_cannot_run_the_model_is_not_ready(tmp_path: Path) -> None:
    """As vLLM's with a head size that its kernels don't know, if it does not compile them first."""
    error = "RuntimeError: Unsupported CPU attention configuration: head_dim=24 isa=1 kv_cache_idx=0"
    server = Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, prints_when_asked=error))
    with server, refused(LaunchError, "head_dim=24", "`transformers`"):
        wait_for(server.is_ready)


def test_a_server_that_refuses_to_generate_is_reported_with_its_answer(tmp_path: Path) -> None:
    server = Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, status=400, error="no such task 4321"))
    with server, refused(LaunchError, 400, 4321):
        wait_for(server.is_ready)


def test_a_server_that_fails_for_a_while_is_waited_for(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, status=503)) as server:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert not server.is_ready()


def test_a_server_that_fails_is_reported_with_its_last_lines_and_the_cause(tmp_path: Path) -> None:
    output = (
        "an early line\nValueError: Free memory on device (1/80 GiB) is less than desired\n\x1b[31mthe last line\x00"
    )
    server = Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, prints=output, exit=7))
    with server, refused(LaunchError, "7", str(tmp_path / "log"), "nvidia-smi", "--served-model-name") as raised:
        wait_for(server.is_ready)
    message = str(raised.value)
    assert message.splitlines()[-1] == "  the last line␀"
    assert server.key not in message


def test_the_key_is_masked_wherever_the_server_prints_it(tmp_path: Path) -> None:
    server = Server(FLAGS, tmp_path / "log")
    server.log.write_text(f"started with {server.key}\nhf_{'a' * 34}\n", encoding="utf-8")
    assert server.output().split() == ["started", "with", "***", "***"]


def test_only_the_output_of_the_last_start_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("CUDA out of memory\n", encoding="utf-8")
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, prints="now", exit=1)) as server:
        with refused(LaunchError) as raised:
            wait_for(server.is_ready)
        assert server.output().strip() == "now"
    assert not names(str(raised.value), "CUDA")
    assert (tmp_path / "log").read_text(encoding="utf-8").startswith("CUDA out of memory\n")


def test_a_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, port_taken=2)) as server:
        wait_for(server.is_ready)
        starts = starts_of(tmp_path)
        assert starts[-1]["arguments"][starts[-1]["arguments"].index("--port") + 1] == str(server.port)
        assert len({start["environment"]["VLLM_API_KEY"] for start in starts}) == len(starts) == 3


def test_ports_are_not_tried_for_ever(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, port_taken=9)) as server, refused(LaunchError):
        wait_for(server.is_ready)
    assert len(starts_of(tmp_path)) == 3


def test_a_free_port_can_be_used() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", free_port()))


def test_a_missing_command_is_named(tmp_path: Path) -> None:
    with refused(LaunchError, "`vllm_command`", "'no-such-vllm'"):
        Server(FLAGS, tmp_path / "log", ["no-such-vllm"]).start()


def test_a_server_that_ends_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path)) as server:
        wait_for(server.is_ready)
        os.kill(starts_of(tmp_path)[0]["pid"], signal.SIGKILL)
        with refused(LaunchError, str(128 + signal.SIGKILL)):
            wait_for(lambda: server.check())
    with refused(LaunchError):
        server.check()


@pytest.mark.parametrize("children", [[False], [True]], ids=["in the group", "in a session of its own"])
def test_processes_that_ignore_sigterm_and_have_no_parent_are_ended(tmp_path: Path, children: list[bool]) -> None:
    with Server(
        FLAGS, tmp_path / "log", fake_vllm(tmp_path, ignores_sigterm=True, children=children), grace=0.3
    ) as server:
        wait_for(server.is_ready)
        assert len(processes_below(tmp_path)) == 3
    assert processes_below(tmp_path) == []


def test_what_a_failed_server_leaves_behind_is_ended(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, prints="no", children=[False, True])) as server:
        with refused(LaunchError):
            wait_for(server.is_ready)
        assert processes_below(tmp_path) == []


def test_a_server_whose_watchdog_was_killed_is_ended(tmp_path: Path) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path, ignores_sigterm=True)) as server:
        wait_for(server.is_ready)
        [pid] = [start["pid"] for start in starts_of(tmp_path)]
        os.kill(os.getsid(pid), signal.SIGKILL)
        with refused(LaunchError):
            wait_for(lambda: server.check())
    assert processes_below(tmp_path) == []


RUN = """
import json, os, sys, time
from pathlib import Path
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server
with Server(Flags("a model", "theta-1"), Path("log"), json.loads(sys.argv[1]), grace=0.5) as server:
    while sys.argv[2] == "ready" and not server.is_ready():
        time.sleep(0.02)
    if sys.argv[2] == "forked" and os.fork() == 0:  # a worker that holds the pipe open
        time.sleep(60)
    print("started", os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("ready", signal.SIGKILL),
        *(pytest.param("ready", number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)),
        *(pytest.param("starting", number, marks=pytest.mark.slow) for number in (signal.SIGKILL, signal.SIGINT)),
        *(pytest.param("forked", number, marks=pytest.mark.slow) for number in (signal.SIGKILL, signal.SIGINT)),
    ],
)
def test_no_server_outlives_its_run(tmp_path: Path, when: str, number: signal.Signals) -> None:
    """However it ends, and even if a process that was forked from it goes on."""
    command = fake_vllm(tmp_path, ignores_sigterm=True, children=[True], ready_after=0 if when == "ready" else 60)
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(command), when],
        env={**os.environ, "PYTHONPATH": str(Path(spin_trl.__file__).parents[1])},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("started")
        wait_for(lambda: starts_of(tmp_path) and len(processes_below(tmp_path)) >= 3)
        run.send_signal(number)
        run.wait(30)
        assert all_gone(tmp_path, 10)
    finally:
        os.killpg(run.pid, signal.SIGKILL) if processes_in_session(run.pid) else None
        run.stdout.close()


def test_the_version_is_the_last_line_that_is_one(tmp_path: Path) -> None:
    assert vllm_version(fake_vllm(tmp_path, version="0.31.0+cpu")) == "0.31.0+cpu"


@pytest.mark.parametrize("does", [{"exit": 1}, {"version": "no version"}, {"version_after": 60}])
def test_a_command_that_reports_no_version_has_none(tmp_path: Path, does: dict[str, object]) -> None:
    assert vllm_version(fake_vllm(tmp_path, **does), seconds=1.0) is None


def test_a_command_that_is_not_there_has_no_version() -> None:
    assert vllm_version(["no-such-vllm"]) is None


def test_a_process_that_cannot_be_ended_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(FLAGS, tmp_path / "log", fake_vllm(tmp_path)) as server:
        wait_for(server.is_ready)
        monkeypatch.setattr(process, "_end_session", lambda session: [4321])
        with refused(LaunchError) as raised:
            server.end()
        assert names(str(raised.value), 4321)
