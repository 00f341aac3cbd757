"""Servers start at the same time, and are all ready, or all ended."""

import os
import signal
import time
from pathlib import Path

import pytest

from fake_vllm import fake_vllm, processes_below, starts_of
from messages import names, refused
from spin_trl.errors import LaunchError
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server
from spin_trl.generation.vllm.servers import end_all, running, why_ended


def several(folder: Path, *behaviours: dict[str, object]) -> tuple[list[Server], list[Path]]:
    """Return a server of each behaviour, and the folders of their fakes."""
    folders = [folder / str(number) for number in range(len(behaviours))]
    servers = []
    for place, does in zip(folders, behaviours, strict=True):
        place.mkdir()
        servers.append(Server(Flags("m", "n"), place / "log", fake_vllm(place, **does), devices=place.name, grace=0.5))
    return servers, folders


def test_servers_start_together_and_end_together(tmp_path: Path) -> None:
    servers, folders = several(tmp_path, {"ready_after": 1.0}, {"ready_after": 1.0})
    with running(servers, seconds=30, pause=0.02):
        assert len({server.port for server in servers}) == 2
        assert all(server.is_ready() for server in servers)
        starts = [starts_of(folder)[0] for folder in folders]
        assert [start["environment"]["CUDA_VISIBLE_DEVICES"] for start in starts] == ["0", "1"]
        assert all(len(processes_below(folder)) == 2 for folder in folders)
    assert [processes_below(folder) for folder in folders] == [[], []]


@pytest.mark.parametrize("other", [{}, {"ready_after": 60}], ids=["ready", "starting"])
def test_if_one_fails_all_are_ended(tmp_path: Path, other: dict[str, object]) -> None:
    servers, folders = several(tmp_path, other, {"prints": "CUDA out of memory", "exit": 9})
    with refused(LaunchError, str(tmp_path / "1" / "log"), "9"), running(servers, seconds=30, pause=0.02):
        pytest.fail("not all servers were ready")
    assert [processes_below(folder) for folder in folders] == [[], []]


def test_a_server_that_is_not_ready_in_time_is_named_and_ended(tmp_path: Path) -> None:
    servers, folders = several(tmp_path, {}, {"ready_after": 60, "ignores_sigterm": True})
    with refused(LaunchError, "1", str(tmp_path / "1" / "log")), running(servers, seconds=1, pause=0.02):
        pytest.fail("not all servers were ready")
    assert [processes_below(folder) for folder in folders] == [[], []]


def test_a_server_that_ends_later_is_explained(tmp_path: Path) -> None:
    servers, folders = several(tmp_path, {}, {})
    with running(servers, seconds=30, pause=0.02):
        assert why_ended(servers) == []
        os.kill(starts_of(folders[1])[0]["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not (found := why_ended(servers)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    [reason] = found
    assert names(reason, "exit code 137", str(tmp_path / "1" / "log"), "memory")


def test_an_interrupt_while_they_start_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, folders = several(tmp_path, {"ready_after": 60}, {"ready_after": 60})

    def interrupt() -> bool:
        deadline = time.monotonic() + 20
        while not all(map(starts_of, folders)):
            assert time.monotonic() < deadline
        raise KeyboardInterrupt

    monkeypatch.setattr(servers[1], "is_ready", interrupt)
    with pytest.raises(KeyboardInterrupt), running(servers, pause=0.02):
        pytest.fail("not all servers were ready")
    assert [processes_below(folder) for folder in folders] == [[], []]


def test_if_one_cannot_be_ended_the_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, folders = several(tmp_path, {}, {})
    ended = servers[1].end

    def fail() -> None:
        ended()
        raise LaunchError("4321")

    monkeypatch.setattr(servers[1], "end", fail)
    with refused(LaunchError, "4321"), running(servers, seconds=30, pause=0.02):
        pass
    assert [processes_below(folder) for folder in folders] == [[], []]


def test_servers_that_were_never_started_end() -> None:
    end_all([Server(Flags("m", "n"), Path("log"))])
