"""A phase as a launch of its own: `accelerate launch`, with the configuration that the run names.

What trains gets the configuration as it is; what answers and measures needs whole replicas of the model, and gets it without
FSDP or DeepSpeed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from rich.file_proxy import FileProxy

from ..config.shipped import accelerate_config_file, read_accelerate_config
from ..errors import LaunchError
from ..run.directory import RunDirectory
from ..run.run import LAUNCHED, Run
from .phases import TRAINS

GRACE_SECONDS = 30
"""That the processes of a launch have to end by themselves after an interrupt."""


def by_accelerate(run: Run, phase: str, iteration: int) -> None:
    """Run a phase with `accelerate launch`, under the run's `accelerate_config`.

    Raises:
        LaunchError: the launch failed.
    """
    name = run.play.accelerate_config or ""
    config_file, replicas = accelerate_config_file(name), _without_plugin(name, run.directory)
    run.directory.own(".progress.json")  # which the phase itself writes
    if phase in TRAINS:
        _launch(config_file, run, phase, iteration)
    if phase not in TRAINS or (phase == "baseline" and replicas != config_file):
        _launch(replicas, run, phase, iteration)


def _launch(config_file: Path, run: Run, phase: str, iteration: int) -> None:
    # The current folder, with whatever modules the user has there, stays off the path of the launch and of its processes.
    # Only a checkout of this package that is not installed is found in that folder.
    is_safe = Path(__file__).parents[2] != Path.cwd()
    command = [sys.executable, *(["-P"] if is_safe else [])]
    command += ["-m", "accelerate.commands.launch", "--config_file", str(config_file), "--quiet"]
    command += ["-m", "spin_trl", phase, str(run.directory.path), "--iteration", str(iteration)]
    # A live display would be torn apart by what others write to its terminal: it passes through here.
    is_watched = isinstance(sys.stdout, FileProxy)
    # In a session of its own: an interrupt from the terminal reaches it through here alone.
    launcher = subprocess.Popen(
        command,
        start_new_session=True,
        env={**os.environ, LAUNCHED: "1", **({"PYTHONSAFEPATH": "1"} if is_safe else {})},
        stdout=subprocess.PIPE if is_watched else None,
        stderr=subprocess.STDOUT if is_watched else None,
        errors="replace",  # as text, in the encoding of this process, which is that of its child
    )
    try:
        for line in launcher.stdout or ():
            print(line, end="")
        returncode = launcher.wait()
    except BaseException:
        _end(launcher)
        raise
    if returncode:
        raise LaunchError(
            f"The {phase} phase of iteration {iteration} ended with exit code {returncode}; its own output says why. "
            "What it finished is kept: the same command goes on from there."
        )


def _end(launcher: subprocess.Popen) -> None:
    """End a launch: its workers are told and waited for.

    A launcher that is killed leaves its workers behind, and PyTorch's, told itself, prints a traceback. So it is halted
    while the workers end.
    """
    workers: list[psutil.Process] = []
    try:
        launcher.send_signal(signal.SIGSTOP)
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(launcher.pid).children(recursive=True)
        _tell(workers, psutil.Process.terminate)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(map(_is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        _tell(workers, psutil.Process.kill)
        launcher.kill()
        launcher.wait()


def _tell(processes: list[psutil.Process], what: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            what(process)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _without_plugin(name: str, directory: RunDirectory) -> Path:
    """The same launch without FSDP or DeepSpeed, under which a model would be loaded in parts."""
    config = read_accelerate_config(name)
    if config.get("distributed_type") not in ("FSDP", "DEEPSPEED"):
        return accelerate_config_file(name)
    plain = {name: value for name, value in config.items() if name not in ("fsdp_config", "deepspeed_config")}
    plain["distributed_type"] = "MULTI_GPU" if plain.get("num_processes", 1) > 1 else "NO"
    written = directory.own("accelerate-replicas.yaml")
    written.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return written
