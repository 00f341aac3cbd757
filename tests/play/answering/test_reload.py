"""Servers come by other weights: by request, or by a command; paths are as the servers see them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from completion_server import CompletionServer, serving, status
from messages import refused
from runs import build
from spin_trl.errors import LaunchError
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.completions.failures import ServedWeightsError
from spin_trl.play.answering import reload
from spin_trl.play.answering.reload import (
    filled_in,
    load_at,
    look,
    name_on_servers,
    run_commands,
    server_path,
    unload_others,
)
from spin_trl.run.run import Run


def run_of(folder: Path, **settings: object) -> Run:
    return build(folder, engine="server", **settings).state


def adapter(folder: Path, content: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return str(folder)


def client(*servers: CompletionServer) -> CompletionsClient:
    return CompletionsClient([one.url for one in servers], "tiny", [2])


def test_paths_in_the_run_directory_are_those_of_the_servers(llama_folder: Path) -> None:
    Path("run/iteration-0/model").mkdir(parents=True)
    here = Path.cwd() / "run" / "iteration-0" / "model"
    assert server_path(run_of(llama_folder), "run/iteration-0/model") == str(here)
    mapped = run_of(llama_folder, server_model_root="/mnt/my")
    assert server_path(mapped, "run/iteration-0/model") == "/mnt/my/iteration-0/model"
    assert server_path(mapped, "run") == "/mnt/my"
    assert server_path(mapped, str(llama_folder)) == str(llama_folder.resolve())
    assert server_path(mapped, "Qwen/Qwen2.5-3B") == "Qwen/Qwen2.5-3B"


def test_a_name_stands_for_weights(llama_folder: Path) -> None:
    run, path = run_of(llama_folder), adapter(Path("run/baseline/sft/iteration-2/model"), b"weights")
    before = name_on_servers(run, path)
    assert before.startswith("run-baseline-sft-iteration-2-")
    assert name_on_servers(run, path) == before
    adapter(Path(path), b"other weights")
    assert name_on_servers(run, path) != before


def test_only_servers_without_the_adapter_load_it(llama_folder: Path) -> None:
    run, path = run_of(llama_folder), adapter(Path("run/iteration-0/model"), b"weights")
    with serving(CompletionServer(), CompletionServer()) as (one, two):
        asked = client(one, two)
        name, folder = name_on_servers(run, path), server_path(run, path)
        one.adapters[name] = "loaded before"
        for url, models in look(asked, 0.0)[0].items():
            load_at(asked, url, models, name, folder)
        assert one.adapters == {name: "loaded before"}
        assert two.adapters == {name: str(Path(path).resolve())}
        # Another process has loaded it since the servers were looked at.
        load_at(asked, two.url, [], name, folder)
        assert two.adapters == {name: folder}
        other = adapter(Path("run/iteration-1/model"), b"more weights")
        two.adapters["taken"] = str(Path(other).resolve())
        with refused(ServedWeightsError, two.url, Path(other).resolve(), "already loaded", "`server_model_root`"):
            load_at(asked, two.url, [], name_on_servers(run, other), server_path(run, other))


def test_only_the_runs_own_adapters_are_unloaded(llama_folder: Path) -> None:
    Path("run").mkdir()
    run = run_of(llama_folder, server_model_root="/mnt/my")
    with serving(CompletionServer()) as one:
        one.adapters |= {
            "before": "/mnt/my/iteration-0/model",
            "now": "/mnt/my/iteration-1/model",
            "neighbour": "/mnt/my-other/iteration-0/model",
            "mine": "/adapters/mine",
        }
        asked = client(one)
        available = look(asked, 0.0)[0]
        unload_others(run, asked, available, "now")
        assert [*one.adapters] == ["now", "neighbour", "mine"]
        unload_others(run, asked, available, "now")  # they are gone, which is no error
        assert [*one.adapters] == ["now", "neighbour", "mine"]


def test_servers_that_start_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SECONDS_BETWEEN", 0.01)
    with serving(CompletionServer(), CompletionServer()) as (one, two):
        two.stop()
        available, failures = look(client(one, two), 0.05)
        assert ([*available], [*failures]) == ([one.url], [two.url])
        two.start()
        assert look(client(one, two), 30.0)[1] == {}


def test_a_command_gets_the_folder_and_the_address() -> None:
    assert filled_in(["./serve.sh --to {url} '{model}/'"], "/a folder", "http://a") == [
        "./serve.sh", "--to", "http://a", "/a folder/",
    ]  # fmt: skip
    assert filled_in(["serve it", "{url}={model}"], "/m", "http://a") == ["serve it", "http://a=/m"]


def test_a_command_is_run_for_each_server(llama_folder: Path) -> None:
    code = "import sys; print(*sys.argv[1:], file=open('notes', 'a'))"
    run = run_of(llama_folder, server_reload_command=[sys.executable, "-c", code, "{model}", "{url}"])
    run_commands(run, "/m", ["http://a", "http://b"])
    assert Path("notes").read_text(encoding="utf-8").split() == ["/m", "http://a", "/m", "http://b"]


def test_a_command_may_leave_a_server_behind(llama_folder: Path) -> None:
    """It holds the command's output open for as long as it runs."""
    code = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('left', 'w').write(str(left.pid))"
    )
    run = run_of(llama_folder, server_reload_command=[sys.executable, "-c", code], server_reload_timeout=20.0)
    try:
        run_commands(run, "/m", ["http://a"])
        assert psutil.pid_exists(int(Path("left").read_text(encoding="utf-8")))
    finally:
        os.kill(int(Path("left").read_text(encoding="utf-8")), signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["no-such-command", "{model}"], ["no-such-command /m"]),
        ([sys.executable, "-c", "import time; time.sleep(60)"], ["0.2 s", "`server_reload_timeout`"]),
        (
            [sys.executable, "-c", "print('https:' + '//me:word@hub'); raise SystemExit(3)"],
            ["exit code 3", "https://***@hub"],
        ),
    ],
)
def test_a_command_that_fails_is_quoted(command: list[str], parts: list[str], llama_folder: Path) -> None:
    run = run_of(
        llama_folder, server_reload_command=command, server_reload_timeout=0.2 if "time" in command[-1] else 60.0
    )
    with refused(LaunchError, "`server_reload_command`", *parts):
        run_commands(run, "/m", ["http://a"])


def test_a_server_that_refuses_the_key_is_not_waited_for() -> None:
    with serving(CompletionServer()) as one:
        one.models_fault = status(401)
        with refused(RuntimeError, one.url, 401):
            look(client(one), 60.0)
