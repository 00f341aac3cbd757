"""The phases of a run by name, and how to run one: in this process, or in a separate launch.

A phase is a function of the run and its iteration that reads and writes the run directory, so it does the same in this
process as in separate processes started by `accelerate launch`, with the run's accelerate configuration. Phases that train
use that configuration unchanged; the others need full replicas of the model, so FSDP and DeepSpeed are removed from it.
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

from ..config.review import WAIT
from ..config.shipped import accelerate_config_file, read_accelerate_config
from ..errors import LaunchError, RecipeError, RunDirectoryError, full_disk, nearest
from ..evaluation.figures import is_figure, is_score
from ..report.record import read_figures
from ..run.directory import PHASE_LOCK, RunDirectory
from ..run.journal import TEST, Step
from ..run.run import LAUNCHED, PLAYS_ON, Run
from ..run.stage import BASE, BEST_SFT, DPO, SELF_PLAY, START, Stage, arm_in_words
from .answering.pause import check_not_paused, forget_pause
from .ends import end_if_diverged, has_ended
from .evaluate import evaluate
from .final_test import measure_finalists
from .gate import ends_after, settle, settle_generations
from .gate_after_dpo import settle_dpo
from .generate import generate_iteration
from .parent import SECONDS_TO_END, held_pipe
from .plugin import training_plugin
from .preference import stages_of_dpo, train_on_pairs
from .retention import measure_retention, measures_retention
from .review import check_votes, hold_review
from .supervise import make_start, play_baseline
from .train import train

GRACE_SECONDS = 30
"""Seconds that the processes of a launch have to exit by themselves after an interrupt."""

Launch = Callable[[Run, str, int], None]
"""Function that runs the phase with this name in an iteration."""


def start_phase(run: Run, iteration: int = 0) -> None:
    """Train θ_0, if the run does, and evaluate it; with SFT first, also the base (under a plugin, only train)."""
    is_whole = training_plugin() is None
    if run.sft_first and is_whole:
        run.progress.part = str(BASE)
        evaluate(run, BASE, None)
        measure_retention(run, BASE)
    if run.makes_start:
        run.progress.part = "SFT"
        make_start(run)
    run.progress.part = ""
    if is_whole:
        evaluate(run, START, None)
        measure_retention(run, START)


def evaluate_iteration(run: Run, iteration: int) -> None:
    """Evaluate θ_{t+1} against its opponent θ_t, and decide which model the next iteration starts from."""
    stage = Stage.of(iteration)
    is_done = run.done(Step.EVALUATE, stage) is not None
    evaluate(run, stage, run.decisions.opponent(iteration))
    measure_retention(run, stage)
    # An interrupt may have come between the two, and votes or another `review_gate` may have come since.
    known = run.decisions.after(iteration)
    if not is_done or not known or known.get("rejected") or run.play.review_gate == WAIT:
        settle(run, iteration)
    if PartialState().is_main_process:
        hold_review(run, iteration)


def baseline_phase(run: Run, iteration: int) -> None:
    """Train the baseline arms for as long as the iteration, and compare them with it (under a plugin, only train).

    The arm from the base is played once the run has ended.
    """
    for arm in (arm for arm in run.arms if _has_stage(run, arm, iteration)):
        run.progress.part = arm_in_words(arm)
        play_baseline(run, arm, iteration)
        stage = Stage.of(iteration, arm)
        if training_plugin() is None and run.done(Step.TRAIN, stage):  # otherwise the arm has ended
            evaluate(run, stage, None, compared_with=Stage.of(iteration))
            measure_retention(run, stage)
            end_if_diverged(run, stage)


def _has_stage(run: Run, arm: str, iteration: int) -> bool:
    """Return whether an arm has a stage at an iteration: the one from the base only where the run ends, or ended once before
    it was given more iterations."""
    has_begun = run.directory.stage(Stage.of(iteration, arm)).exists()
    return arm != BEST_SFT or has_begun or ends_after(run, iteration)


def dpo_phase(run: Run, iteration: int) -> None:
    """Train the models that `then_dpo` names on the preference pairs, and evaluate them (under a plugin, only train)."""
    for stage in stages_of_dpo(run):
        run.progress.part = stage.label
        if PartialState().is_main_process:
            run.directory.own(stage)
        train_on_pairs(run, stage)
        if training_plugin() is None:
            evaluate(run, stage, stage.origin)
            measure_retention(run, stage)
            settle_dpo(run, stage)


def final_test_phase(run: Run, iteration: int) -> None:
    """Measure the final models on the test set, once the run has ended."""
    measure_finalists(run)


PHASES: Mapping[str, Callable[[Run, int], None]] = {
    "start": start_phase,
    "generate": generate_iteration,
    "train": train,
    "evaluate": evaluate_iteration,
    "baseline": baseline_phase,
    DPO: dpo_phase,
    TEST: final_test_phase,
}

TRAINS = ("train", "baseline", DPO)
"""Phases that always run under a training plugin (FSDP, DeepSpeed). The others load a full replica in each process."""


def trains(run: Run, phase: str) -> bool:
    """Return whether a phase of a run runs under a training plugin: those in [`TRAINS`], and SFT first."""
    return phase in TRAINS or (phase == START and run.sft_first)


def in_this_process(run: Run, phase: str, iteration: int) -> None:
    """Run a phase in this process.

    Raises:
        RunDirectoryError: if an earlier phase has not finished, another process is running a phase of this run, or the gate
            has stopped the run.
        LaunchError: if the phase needs full replicas of the model, and the launcher would shard it.
        OSError: if the disk is full, whichever library reported it.
    """
    if not trains(run, phase) and training_plugin() is not None:
        raise LaunchError(
            f"The {phase} phase needs full replicas of the model, but {training_plugin()} shards it. Launch it without the "
            "plugin, or let `spin-trl run ... --accelerate_config CONFIG` launch each phase with the right configuration."
        )
    check_order(run, phase, iteration)
    if phase == "generate":
        _check_score(run, iteration)
        _check_gate(run, iteration)
    if phase == "train":
        _check_generations(run, iteration)
    if phase in (DPO, TEST):
        _check_votes_on_last(run, iteration)
    state = PartialState()
    try:
        # Processes launched by a loop that was killed may still be exiting when the next loop relaunches the phase.
        wait = 2.0 * SECONDS_TO_END if LAUNCHED in os.environ else 0.0
        with run.directory.locked(PHASE_LOCK, wait) if state.is_main_process else contextlib.nullcontext():
            is_of_stage = phase != TEST and (phase != "start" or run.makes_start or _measures_start(run))
            if state.is_main_process and is_of_stage:
                run.directory.own(_folder_of(phase, iteration))
                if phase == "start" and run.sft_first and _measures_start(run):
                    run.directory.own(BASE)
            PHASES[phase](run, iteration)
            state.wait_for_everyone()
    except Exception as error:  # on a full disk, tokenizers raises a bare `Exception`, and others their own classes
        found = full_disk(error)
        if found is None or isinstance(found, OSError):
            raise
        number = errno.EFBIG if os.strerror(errno.EFBIG) in str(found) else errno.ENOSPC
        raise OSError(number, f"{os.strerror(number)}: {found}", str(run.directory.path)) from error


def _measures_start(run: Run) -> bool:
    return len(run.rows(held_out=True)) > 0 or measures_retention(run)


def _folder_of(phase: str, iteration: int) -> str:
    """Return the entry of the run directory that a phase writes to."""
    return {"start": START, "baseline": "baseline", DPO: DPO}.get(phase, Stage.of(iteration))


def check_order(run: Run, phase: str, iteration: int) -> None:
    """Raise if a phase that this one needs has not finished.

    Raises:
        RunDirectoryError: if one has not.
    """
    stage, before = Stage.of(iteration), Stage.of(iteration - 1)
    measures = len(run.rows(held_out=True)) > 0
    falls_back = measures and run.play.on_regression == "fall_back"
    needed: dict[str, list[tuple[Step, Stage]]] = {
        "start": [],
        "generate": [
            *([(Step.TRAIN, before)] if iteration or run.makes_start else []),
            *([(Step.EVALUATE, before)] if iteration and falls_back else []),
        ],
        "train": [(Step.GENERATE, stage)],
        "evaluate": [(Step.TRAIN, stage), *([(Step.EVALUATE, run.decisions.opponent(iteration))] if measures else [])],
        "baseline": [(Step.TRAIN, stage), *([(Step.EVALUATE, stage)] if measures else [])],
        TEST: [
            (Step.EVALUATE if measures else Step.TRAIN, Stage.of(iteration, arm))
            for arm in (SELF_PLAY, *run.arms)
            if iteration >= 0  # otherwise the run ended before its first iteration was trained
            and not (arm != SELF_PLAY and has_ended(run, Stage.of(iteration, arm)))
        ],
    }
    needed[DPO] = list(needed[TEST])
    if phase == TEST and run.play.then_dpo:
        needed[TEST] += [(Step.EVALUATE if measures else Step.TRAIN, stage) for stage in stages_of_dpo(run)]
    if phase in (DPO, TEST) and not ends_after(run, iteration):
        does = "trains" if phase == DPO else "measures"
        raise RunDirectoryError(
            f"The {phase} phase {does} the final models, but the run in {run.directory.path} has only played iteration "
            f"{iteration} of {run.play.num_iterations}. `spin-trl run` runs all phases in order."
        )
    for earlier, where in needed[phase]:
        if run.done(earlier, where) is None:
            raise RunDirectoryError(
                f"The {phase} phase of iteration {iteration} needs the {earlier} phase of {where}, which has not finished "
                f"in {run.directory.path}. `spin-trl run` runs all phases in order."
            )


def _check_score(run: Run, iteration: int) -> None:
    """Check that the scorer gives the score by which the best iteration is chosen, once the start has been measured."""
    name, figures = run.play.metric_for_best_iteration, read_figures(run.directory, START)
    if iteration or run.has_begun(0) or not is_score(name) or not figures or name in figures:
        return
    given = [figure for figure in figures if is_score(figure) and is_figure(figure, figures)]
    what = f"the scorer gives {', '.join(given)}" if given else "the scorer gave no score for any held-out prompt"
    raise RecipeError(
        f"`metric_for_best_iteration` is {name!r}, but {what}{nearest(name, given)} Only the start has been measured: "
        "change the setting and start over with `--existing_run overwrite`."
    )


def _check_gate(run: Run, iteration: int) -> None:
    """Check that the gate lets the iteration begin, also when phases are launched by hand."""
    if iteration == 0 or run.done(Step.EVALUATE, Stage.of(iteration - 1)) is None:
        return
    has_begun = run.has_begun(iteration)
    if has_begun and run.decisions.after(iteration - 1):
        return
    verdict, _ = settle(run, iteration - 1)
    if verdict.stopped is not None and not has_begun:
        raise RunDirectoryError(
            f"The run in {run.directory.path} has stopped. {verdict.stopped} To continue it, change the gate's settings."
        )
    check_votes(run, iteration - 1)


def _check_votes_on_last(run: Run, iteration: int) -> None:
    """Check that people have voted on the last iteration if the run waits for it, also when phases are launched by hand."""
    if iteration >= 0 and run.done(Step.EVALUATE, Stage.of(iteration)) is not None:
        settle(run, iteration)
        check_votes(run, iteration)


def _check_generations(run: Run, iteration: int) -> None:
    """Check that there is something to learn from an iteration's generations, also when phases are launched by hand."""
    if (reason := settle_generations(run, iteration)) is not None:
        raise RunDirectoryError(f"The run in {run.directory.path} has stopped. {reason}")


def by_accelerate(run: Run, phase: str, iteration: int) -> None:
    """Run a phase with `accelerate launch`, under the run's `accelerate_config`.

    Raises:
        LaunchError: if the launch failed.
        PausedError: if servers have to be given other weights by hand first.
    """
    name = run.play.accelerate_config or ""
    config_file, replicas = accelerate_config_file(name), _without_plugin(name, run.directory)
    run.directory.own(".progress.json")  # the phase itself writes it
    forget_pause(run)
    if trains(run, phase):
        _launch(config_file, run, phase, iteration)
    if not trains(run, phase) or (phase != "train" and replicas != config_file):
        _launch(replicas, run, phase, iteration)


def _launch(config_file: Path, run: Run, phase: str, iteration: int) -> None:
    # Keep the current folder, with any modules the user has there, off the import path of the launch and its processes.
    # It is needed only if it is a checkout of this package that is not installed.
    is_safe = Path(__file__).parents[2] != Path.cwd()
    command = [sys.executable, *(["-P"] if is_safe else [])]
    command += ["-m", "accelerate.commands.launch", "--config_file", str(config_file), "--quiet"]
    command += ["-m", "spin_trl", phase, str(run.directory.path), "--iteration", str(iteration)]
    command.append("--trust_run")  # trust has been checked in this process
    # Output that goes straight to the terminal would break the live display, so it passes through this process.
    is_watched = isinstance(sys.stdout, FileProxy)
    with held_pipe() as watched:
        # In its own session, so that an interrupt from the terminal reaches it only through this process.
        launcher = subprocess.Popen(
            command,
            start_new_session=True,
            env={
                **os.environ,
                LAUNCHED: "1",
                **watched,
                **({PLAYS_ON: "1"} if run.plays_on else {}),
                **({"PYTHONSAFEPATH": "1"} if is_safe else {}),
            },
            stdout=subprocess.PIPE if is_watched else None,
            stderr=subprocess.STDOUT if is_watched else None,
            errors="replace",  # read as text: the child uses the same encoding as this process
        )
        try:
            for line in launcher.stdout or ():
                print(line, end="")
            returncode = launcher.wait()
        except BaseException:
            _end(launcher)
            raise
    if returncode:
        check_not_paused(run)
        raise LaunchError(
            f"The {phase} phase of iteration {iteration} ended with exit code {returncode}; its own output says why. "
            "Finished work is kept; run the same command to resume."
        )


def _end(launcher: subprocess.Popen) -> None:
    """End a launch: terminate its workers and wait for them.

    A killed launcher leaves its workers behind, and PyTorch's launcher prints a traceback when it is terminated. So the
    launcher is suspended while the workers exit.
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
    """Return a configuration file for the same launch without FSDP or DeepSpeed, which would shard the model."""
    config = read_accelerate_config(name)
    if config.get("distributed_type") not in ("FSDP", "DEEPSPEED"):
        return accelerate_config_file(name)
    plain = {name: value for name, value in config.items() if name not in ("fsdp_config", "deepspeed_config")}
    plain["distributed_type"] = "MULTI_GPU" if (plain.get("num_processes") or 1) > 1 else "NO"
    written = directory.own("accelerate-replicas.yaml")
    written.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return written
