"""The phases of a run by name, and the two ways to launch one: in this process, or as a launch of its own.

A phase is a function of the run and its iteration, so both ways do the same: they read and write the run directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import yaml
from accelerate import PartialState
from rich.file_proxy import FileProxy
from safetensors import SafetensorError

from ..errors import LaunchError, RecipeError, RunDirectoryError
from .answering import generate_iteration
from .baseline import play_baseline
from .directory import PHASE_LOCK, START, arm_name, baseline_stage, iteration_stage
from .evaluating import evaluate
from .gate import settle
from .run import LAUNCHED, Run
from .start import make_start
from .training import train

Launch = Callable[[Run, str, int], None]
"""Runs a phase, by its name, of an iteration."""


def start_phase(run: Run, iteration: int = 0) -> None:
    """Make θ_0, if no checkpoint is given, and evaluate it."""
    if run.model is None:
        make_start(run)
    evaluate(run, START, None)


def evaluate_iteration(run: Run, iteration: int) -> None:
    """Evaluate θ_{t+1} against its opponent θ_t, and decide from which of them the next iteration starts."""
    stage = iteration_stage(iteration)
    is_done = run.done("evaluate", stage) is not None
    evaluate(run, stage, run.opponent_stage(iteration))
    if not is_done:
        settle(run, iteration)


def baseline_phase(run: Run, iteration: int) -> None:
    """Train the baseline arms for as many steps as the iteration, and compare them with it (under a plugin: later)."""
    for label_smoothing in run.play.baseline_label_smoothing:
        play_baseline(run, label_smoothing, iteration)
        if training_plugin() is None:
            stage = baseline_stage(arm_name(label_smoothing), iteration)
            evaluate(run, stage, None, compared_with=iteration_stage(iteration))


PHASES: Mapping[str, Callable[[Run, int], None]] = MappingProxyType(
    {
        "start": start_phase,
        "generate": generate_iteration,
        "train": train,
        "evaluate": evaluate_iteration,
        "baseline": baseline_phase,
    }
)

_FULL_DISK = ("No space left on device", "PytorchStreamWriter", "inline_container", "iostream error")
"""What safetensors and `torch.save` say when they can't write on: neither raises an OSError."""

GRACE_SECONDS = 30
"""That the processes of a launch have to end by themselves after an interrupt."""

TRAINS = ("train", "baseline")
"""Phases that run under a training plugin (FSDP, DeepSpeed). The others load whole replicas, one per process."""

_PLUGINS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def training_plugin() -> str | None:
    """The plugin of the launcher that started this process, under which a model is loaded in parts, or None."""
    return next((name for key, name in _PLUGINS.items() if os.environ.get(key, "").lower() == "true"), None)


def in_this_process(run: Run, phase: str, iteration: int) -> None:
    """Run a phase here.

    Raises:
        RunDirectoryError: a phase that has to come first has not finished, another process runs a phase of this run, or the
            gate has ended it.
        LaunchError: the phase needs whole replicas of the model, and the launcher would load it in parts.
        OSError: the disk is full, whichever library found out.
    """
    if phase not in TRAINS and training_plugin() is not None:
        raise LaunchError(
            f"The {phase} phase loads whole replicas of the model, which {training_plugin()} does not do. Launch it without "
            "the plugin, or let `spin-trl run ... --accelerate_config CONFIG` launch every phase as it has to be."
        )
    _check_order(run, phase, iteration)
    if phase == "generate":
        _check_gate(run, iteration)
    state = PartialState()
    try:
        with run.directory.locked(PHASE_LOCK) if state.is_main_process else contextlib.nullcontext():
            PHASES[phase](run, iteration)
            state.wait_for_everyone()
    except (SafetensorError, RuntimeError) as error:
        if any(words in str(error) for words in _FULL_DISK):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {error}") from error
        raise


def _check_order(run: Run, phase: str, iteration: int) -> None:
    stage, before = iteration_stage(iteration), iteration_stage(iteration - 1) if iteration else START
    measures = len(run.rows(held_out=True)) > 0
    falls_back = measures and run.play.on_regression == "fall_back"
    needed: dict[str, list[tuple[str, str]]] = {
        "start": [],
        "generate": [
            *([("train", before)] if iteration or run.model is None else []),
            *([("evaluate", before)] if iteration and falls_back else []),
        ],
        "train": [("generate", stage)],
        "evaluate": [("train", stage), *([("evaluate", run.opponent_stage(iteration))] if measures else [])],
        "baseline": [("train", stage), *([("evaluate", stage)] if measures else [])],
    }
    for earlier, where in needed[phase]:
        if run.done(earlier, where) is None:
            raise RunDirectoryError(
                f"The {phase} phase of iteration {iteration} needs the {earlier} phase of {where}, which has not finished "
                f"in {run.directory.path}. `spin-trl run` plays all phases in their order."
            )


def _check_gate(run: Run, iteration: int) -> None:
    """Nothing is generated by a model that the gate has not let pass, also where phases are launched by hand."""
    if iteration == 0 or run.has_begun(iteration) or run.done("evaluate", iteration_stage(iteration - 1)) is None:
        return
    verdict, _ = settle(run, iteration - 1)
    if verdict.stopped is not None:
        raise RunDirectoryError(f"{run.directory.path} has ended. {verdict.stopped} Other settings of the gate go on.")


def by_accelerate(run: Run, phase: str, iteration: int) -> None:
    """Run a phase with `accelerate launch`, under the run's `accelerate_config`.

    Raises:
        LaunchError: the launch failed.
    """
    config_file = Path(run.play.accelerate_config or "")
    replicas = _without_plugin(config_file, run.directory.path)
    if phase in TRAINS:
        _launch(config_file, run, phase, iteration)
    if phase not in TRAINS or (phase == "baseline" and replicas != config_file):
        _launch(replicas, run, phase, iteration)


def _launch(config_file: Path, run: Run, phase: str, iteration: int) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_file), "--quiet"]
    command += ["-m", "spin_trl", phase, str(run.directory.path), "--iteration", str(iteration)]
    # A live display would be torn apart by what others write to its terminal: it passes through here.
    is_watched = isinstance(sys.stdout, FileProxy)
    # In a session of its own: an interrupt from the terminal reaches it through here alone.
    launcher = subprocess.Popen(
        command,
        start_new_session=True,
        env={**os.environ, LAUNCHED: "1"},
        stdout=subprocess.PIPE if is_watched else None,
        stderr=subprocess.STDOUT if is_watched else None,
        text=True,
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


def read_accelerate_config(path: Path) -> dict[str, Any]:
    """An accelerate configuration file as a mapping.

    Raises:
        RecipeError: it is missing or no mapping.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"`accelerate_config`: {path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise RecipeError(f"`accelerate_config`: {path} holds no settings.")
    return config


def _without_plugin(path: Path, folder: Path) -> Path:
    """The same launch without FSDP or DeepSpeed, under which a model would be loaded in parts."""
    config = read_accelerate_config(path)
    if config.get("distributed_type") not in ("FSDP", "DEEPSPEED"):
        return path
    plain = {name: value for name, value in config.items() if name not in ("fsdp_config", "deepspeed_config")}
    plain["distributed_type"] = "MULTI_GPU" if plain.get("num_processes", 1) > 1 else "NO"
    written = folder / "accelerate-replicas.yaml"
    written.write_text(yaml.safe_dump(plain))
    return written
