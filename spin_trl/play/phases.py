"""The phases of a run by name, and how one runs: in this process, or as a launch of its own.

A phase is a function of the run and its iteration that reads and writes the run directory. So it does the same here and in
processes of its own, by `accelerate launch`, with the configuration that the run names. There, what trains gets the
configuration as it is; what answers and measures needs whole replicas of the model, and gets it without FSDP or DeepSpeed.
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

import psutil
import yaml
from accelerate import PartialState
from rich.file_proxy import FileProxy

from ..config.shipped import accelerate_config_file, read_accelerate_config
from ..errors import LaunchError, RecipeError, RunDirectoryError, full_disk, nearest
from ..evaluation.figures import is_figure, is_score
from ..report.record import read_figures
from ..run.directory import PHASE_LOCK, RunDirectory
from ..run.journal import Step
from ..run.run import LAUNCHED, Run
from ..run.stage import START, Stage, arm_name
from .evaluate import evaluate
from .gate import settle
from .generate import generate_iteration
from .parent import SECONDS_TO_END, held_pipe
from .train import make_start, play_baseline, train

GRACE_SECONDS = 30
"""That the processes of a launch have to end by themselves after an interrupt."""

Launch = Callable[[Run, str, int], None]
"""Runs a phase, by its name, of an iteration."""


def start_phase(run: Run, iteration: int = 0) -> None:
    """Make θ_0, if no checkpoint is given, and evaluate it."""
    if run.model is None:
        make_start(run)
    evaluate(run, START, None)


def evaluate_iteration(run: Run, iteration: int) -> None:
    """Evaluate θ_{t+1} against its opponent θ_t, and decide from which of them the next iteration starts."""
    stage = Stage.of(iteration)
    is_done = run.done(Step.EVALUATE, stage) is not None
    evaluate(run, stage, run.decisions.opponent(iteration))
    if not is_done or not run.decisions.after(iteration):  # an interrupt may have come between the two
        settle(run, iteration)


def baseline_phase(run: Run, iteration: int) -> None:
    """Train the baseline arms for as many steps as the iteration, and compare them with it (under a plugin: later)."""
    for label_smoothing in run.play.baseline_label_smoothing:
        play_baseline(run, label_smoothing, iteration)
        if training_plugin() is None:
            stage = Stage.of(iteration, arm_name(label_smoothing))
            evaluate(run, stage, None, compared_with=Stage.of(iteration))


PHASES: Mapping[str, Callable[[Run, int], None]] = {
    "start": start_phase,
    "generate": generate_iteration,
    "train": train,
    "evaluate": evaluate_iteration,
    "baseline": baseline_phase,
}

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
        _check_score(run, iteration)
        _check_gate(run, iteration)
    state = PartialState()
    try:
        # What a loop that was killed has launched may still be ending when the next loop launches the phase again.
        wait = 2.0 * SECONDS_TO_END if LAUNCHED in os.environ else 0.0
        with run.directory.locked(PHASE_LOCK, wait) if state.is_main_process else contextlib.nullcontext():
            if state.is_main_process and (phase != "start" or run.model is None or len(run.rows(held_out=True))):
                run.directory.own(_folder_of(phase, iteration))
            PHASES[phase](run, iteration)
            state.wait_for_everyone()
    except Exception as error:  # tokenizers raises a bare one on a full disk, and others have kinds of their own
        found = full_disk(error)
        if found is None or isinstance(found, OSError):
            raise
        number = errno.EFBIG if os.strerror(errno.EFBIG) in str(found) else errno.ENOSPC
        raise OSError(number, f"{os.strerror(number)}: {found}", str(run.directory.path)) from error


def _folder_of(phase: str, iteration: int) -> str:
    """The entry of the run directory into which a phase writes."""
    return {"start": START, "baseline": "baseline"}.get(phase, Stage.of(iteration))


def _check_order(run: Run, phase: str, iteration: int) -> None:
    stage, before = Stage.of(iteration), Stage.of(iteration - 1)
    measures = len(run.rows(held_out=True)) > 0
    falls_back = measures and run.play.on_regression == "fall_back"
    needed: dict[str, list[tuple[Step, Stage]]] = {
        "start": [],
        "generate": [
            *([(Step.TRAIN, before)] if iteration or run.model is None else []),
            *([(Step.EVALUATE, before)] if iteration and falls_back else []),
        ],
        "train": [(Step.GENERATE, stage)],
        "evaluate": [(Step.TRAIN, stage), *([(Step.EVALUATE, run.decisions.opponent(iteration))] if measures else [])],
        "baseline": [(Step.TRAIN, stage), *([(Step.EVALUATE, stage)] if measures else [])],
    }
    for earlier, where in needed[phase]:
        if run.done(earlier, where) is None:
            raise RunDirectoryError(
                f"The {phase} phase of iteration {iteration} needs the {earlier} phase of {where}, which has not finished "
                f"in {run.directory.path}. `spin-trl run` plays all phases in their order."
            )


def _check_score(run: Run, iteration: int) -> None:
    """The score by which the best iteration is chosen is one that the scorer gives: known once the start is measured."""
    name, figures = run.play.metric_for_best_iteration, read_figures(run.directory, START)
    if iteration or run.has_begun(0) or not is_score(name) or not figures or name in figures:
        return
    given = [figure for figure in figures if is_score(figure) and is_figure(figure, figures)]
    what = f"the scorer gives {', '.join(given)}" if given else "the scorer gave nothing for any held-out prompt"
    raise RecipeError(
        f"`metric_for_best_iteration` is {name!r}, but {what}{nearest(name, given)} Only the start has been measured: "
        "change the setting, and add `--existing_run overwrite`."
    )


def _check_gate(run: Run, iteration: int) -> None:
    """Nothing is generated by a model that the gate has not let pass, also where phases are launched by hand."""
    if iteration == 0 or run.done(Step.EVALUATE, Stage.of(iteration - 1)) is None:
        return
    has_begun = run.has_begun(iteration)
    if has_begun and run.decisions.after(iteration - 1):
        return
    verdict, _ = settle(run, iteration - 1)
    if verdict.stopped is not None and not has_begun:
        raise RunDirectoryError(f"{run.directory.path} has ended. {verdict.stopped} Other settings of the gate go on.")


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
    command.append("--trust_run")  # it has been seen to here
    # A live display would be torn apart by what others write to its terminal: it passes through here.
    is_watched = isinstance(sys.stdout, FileProxy)
    with held_pipe() as watched:
        # In a session of its own: an interrupt from the terminal reaches it through here alone.
        launcher = subprocess.Popen(
            command,
            start_new_session=True,
            env={**os.environ, LAUNCHED: "1", **watched, **({"PYTHONSAFEPATH": "1"} if is_safe else {})},
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
    plain["distributed_type"] = "MULTI_GPU" if (plain.get("num_processes") or 1) > 1 else "NO"
    written = directory.own("accelerate-replicas.yaml")
    written.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return written
