"""Every phase is launched with the right configuration, and ends when it should."""

import errno
import io
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console
from rich.file_proxy import FileProxy

from messages import refused
from runs import build
from spin_trl.config import shipped
from spin_trl.config.shipped import read_accelerate_config
from spin_trl.errors import LaunchError, RecipeError
from spin_trl.play import phases
from spin_trl.play.phases import PHASES, by_accelerate


class Launched:
    """Stand-in for `subprocess.Popen` that records the command and the accelerate configuration it names."""

    stdout = None  # without a live display, a launch writes to the terminal itself

    def __init__(self, returncode: int = 0) -> None:
        self.returncode, self.commands, self.configs = returncode, [], []
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], **options: Any) -> "Launched":
        self.commands.append(command)
        self.environments.append(options["env"])
        self.configs.append(
            yaml.safe_load(Path(command[command.index("--config_file") + 1]).read_text(encoding="utf-8"))
        )
        return self

    def wait(self) -> int:
        return self.returncode


def config_file(**settings: Any) -> str:
    """Return an accelerate configuration."""
    path = Path("accelerate.yaml")
    path.write_text(yaml.safe_dump({"distributed_type": "NO", "num_processes": 1, **settings}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED"])
def test_generation_is_launched_without_the_training_plugin(
    plugin: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP and DeepSpeed shard the model, so phases that train get the plugin and those that generate do not."""
    popen = Launched()
    monkeypatch.setattr(phases.subprocess, "Popen", popen)
    options = config_file(distributed_type=plugin, num_processes=4, fsdp_config={"x": 1}, deepspeed_config={"y": 2})
    run = build(llama_folder, accelerate_config=options).state
    Path("run").mkdir()
    launched = {"start": [False], "generate": [False], "train": [True], "evaluate": [False], "baseline": [True, False]}
    for phase, with_plugin in launched.items():
        popen.commands.clear(), popen.configs.clear()
        by_accelerate(run, phase, 1)
        for arguments in popen.commands:
            assert arguments[:4] == [sys.executable, "-P", "-m", "accelerate.commands.launch"]
            assert arguments[-7:] == ["-m", "spin_trl", phase, "run", "--iteration", "1", "--trust_run"]
        # The launched processes do not look for Python modules in the user's folder either.
        assert all(environment["PYTHONSAFEPATH"] == "1" for environment in popen.environments)
        assert [config["distributed_type"] for config in popen.configs] == [
            plugin if has_it else "MULTI_GPU" for has_it in with_plugin
        ]
        for config, has_it in zip(popen.configs, with_plugin, strict=True):
            assert config["num_processes"] == 4
            assert ("fsdp_config" in config, "deepspeed_config" in config) == (has_it, has_it)


def test_without_a_plugin_every_phase_is_one_launch_under_the_config(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is passed unchanged."""
    popen = Launched()
    monkeypatch.setattr(phases.subprocess, "Popen", popen)
    options = config_file(distributed_type="MULTI_GPU", num_processes=2)
    run = build(llama_folder, accelerate_config=options).state
    for phase in PHASES:
        by_accelerate(run, phase, 0)
    assert [command[command.index("--config_file") + 1] for command in popen.commands] == [options] * len(PHASES)


def test_a_failed_launch_is_named(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the phase, iteration and exit code; finished work is kept."""
    monkeypatch.setattr(phases.subprocess, "Popen", Launched(returncode=7))
    run = build(llama_folder, accelerate_config=config_file()).state
    with refused(LaunchError, "train phase", "iteration 1", "exit code 7"):
        by_accelerate(run, "train", 1)


def test_what_a_launch_says_is_shown_whatever_its_encoding(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output goes through a live display, and a byte from a library that is not text must not end the run."""
    says = [sys.executable, "-c", r"import os; os.write(1, b'rank 0 \xff is ready\n')"]
    popen = subprocess.Popen
    monkeypatch.setattr(phases.subprocess, "Popen", lambda _, **options: popen(says, **options))
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", FileProxy(Console(file=shown), sys.stdout))
    by_accelerate(build(llama_folder, accelerate_config=config_file()).state, "train", 0)
    assert re.fullmatch(r"rank 0 \W+ is ready\n", shown.getvalue())


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, f"Errno {errno.ENOENT}"), ("a: [", "line 1, column 5"), ("- a", "settings")],
    ids=["missing", "malformed", "no mapping"],
)
def test_an_unusable_accelerate_config_is_named(text: str | None, part: str) -> None:
    """The configuration may be missing, malformed, or not a mapping."""
    path = Path("bad.yaml")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with refused(RecipeError, "`accelerate_config`", "bad.yaml", part):
        read_accelerate_config(str(path))


# Like PyTorch's launcher: its worker has a session of its own, so no signal to a group reaches it.
LAUNCHER = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(worker.pid, flush=True)
worker.wait()
time.sleep(60)
"""
POLITE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: open('told', 'w').close() or sys.exit(130))"
)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize("worker", [POLITE, STUBBORN], ids=["polite", "stubborn"])
def test_an_interrupted_launch_leaves_no_worker_behind(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is terminated, waited for, and killed if it does not exit, so none trains on while the next run plays."""
    monkeypatch.setattr(phases, "GRACE_SECONDS", 2)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, f"{worker}\nopen('ready', 'w').close()\ntime.sleep(60)"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    child = psutil.Process(int(launcher.stdout.readline()))
    while not Path("ready").exists():
        time.sleep(0.01)
    phases._end(launcher)
    assert launcher.poll() is not None
    deadline = time.monotonic() + 10
    while phases._is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not phases._is_alive(child)
    assert Path("told").exists() is (worker == POLITE)


def test_an_interrupt_of_the_loop_ends_the_launch(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a phase runs in a separate process also ends that process, and is then raised."""
    ended: list[Any] = []

    class Interrupted(Launched):
        def wait(self) -> int:
            raise KeyboardInterrupt

    popen = Interrupted()
    monkeypatch.setattr(phases.subprocess, "Popen", popen)
    monkeypatch.setattr(phases, "_end", ended.append)
    with pytest.raises(KeyboardInterrupt):
        by_accelerate(build(llama_folder, accelerate_config=config_file()).state, "train", 0)
    assert ended == [popen]


def test_a_configuration_that_ships_is_known_by_its_name() -> None:
    """It is found wherever the package is installed; a file with that name takes precedence."""
    assert read_accelerate_config("zero3")["deepspeed_config"]["zero_stage"] == 3
    Path("zero3").write_text(yaml.safe_dump({"distributed_type": "NO"}), encoding="utf-8")
    assert read_accelerate_config("zero3") == {"distributed_type": "NO"}


def test_a_name_that_is_none_names_the_nearest() -> None:
    """The message lists all names."""
    with refused(RecipeError, "`accelerate_config`", "'zero33'", "'zero3'", "fsdp2"):
        read_accelerate_config("zero33")


def test_several_machines_are_refused_with_the_way_to_do_it() -> None:
    """A loop on one machine can't launch processes on another, and would wait for them forever."""
    path = config_file(num_machines=2, num_processes=16)
    with refused(RecipeError, path, "2 machines", "accelerate launch", "recipes/accelerate/slurm.sh"):
        read_accelerate_config(path)
    path = str(shipped.accelerate_configs()["two-machines"])
    with refused(RecipeError, path, "2 machines"):
        read_accelerate_config(path)
