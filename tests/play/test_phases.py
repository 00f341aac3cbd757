"""Each phase runs once, in order, in one process at a time, either here or as a separate launch that ends when it should."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from messages import refused
from runs import build, contents, steps, weights
from spin_trl.errors import GenerationsError, LaunchError, RecipeError, RunDirectoryError
from spin_trl.play import phases
from spin_trl.play.phases import PHASES
from spin_trl.run.directory import PHASE_LOCK, RunDirectory
from spin_trl.training.trainer import SPINTrainer

ORDER = [("start", 0), *((phase, t) for t in (0, 1) for phase in ("generate", "train", "evaluate", "baseline"))]


@pytest.fixture(scope="module")
def played(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play a whole run, phase by phase, each with its own `SelfPlay` as in a separate process."""
    folder = tmp_path_factory.mktemp("phases") / "run"
    for phase, iteration in ORDER:
        build(llama_folder, folder, baseline="sft").run_phase(phase, iteration)
    return folder


@pytest.mark.slow
def test_phase_by_phase_is_the_run(played: Path, llama_folder: Path) -> None:
    """Models, journal and figures equal those of `run`."""
    build(llama_folder, baseline="sft").run()
    assert steps(played) == steps()
    for name in ("best.json", "table.txt"):
        assert (played / name).read_bytes().replace(bytes(played), b"run") == Path("run", name).read_bytes()
    cards = [Path(folder, "best", "README.md").read_text(encoding="utf-8") for folder in (played, "run")]
    assert re.sub(r"[\d.]+ (s|min)\b", "", cards[0]) == re.sub(r"[\d.]+ (s|min)\b", "", cards[1])
    assert (played / "report.html").is_file()
    for stage in ("iteration-0", "iteration-1", "baseline/sft/iteration-1"):
        assert weights(played / stage / "model") == weights(f"run/{stage}/model")
        assert (played / stage / "metrics.json").read_bytes() == Path(f"run/{stage}/metrics.json").read_bytes()


@pytest.mark.parametrize(("phase", "iteration"), ORDER)
def test_a_finished_phase_does_nothing(phase: str, iteration: int, played: Path, llama_folder: Path) -> None:
    """No file changes, and no model is loaded."""
    before = contents(played)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spin_trl.play.answering.at_hand.load_policy", None)
        patch.setattr("spin_trl.play.train.SPINTrainer", None)
        patch.setattr("spin_trl.play.train.load_policy", None)
        build(llama_folder, played, baseline="sft").run_phase(phase, iteration)
    assert contents(played) == before


@pytest.mark.parametrize(
    ("phase", "iteration", "missing", "stage"),
    [
        ("train", 0, "generate", "iteration-0"),
        ("evaluate", 0, "train", "iteration-0"),
        ("baseline", 0, "train", "iteration-0"),
        ("generate", 1, "train", "iteration-0"),
        ("train", 1, "generate", "iteration-1"),
    ],
)
def test_a_phase_out_of_order_says_what_comes_first(
    phase: str, iteration: int, missing: str, stage: str, llama_folder: Path
) -> None:
    """By hand, phases may be called in any order; the error names the missing one, and nothing is started."""
    run = build(llama_folder, baseline="sft")
    parts = (f"{phase} phase", f"iteration {iteration}", f"{missing} phase", stage, "`spin-trl run`")
    with refused(RunDirectoryError, *parts):
        run.run_phase(phase, iteration)
    assert steps() == [("prepare", "data")]
    assert not list(Path("run").glob("iteration-*"))


def test_an_evaluation_needs_its_opponents(llama_folder: Path) -> None:
    """How often the policy prefers real to generated is measured on the opponent's answers to the held-out prompts."""
    run = build(llama_folder)
    run.run_phase("generate", 0)
    run.run_phase("train", 0)
    with refused(RunDirectoryError, "evaluate phase", "iteration 0", "start"):
        run.run_phase("evaluate", 0)


def test_one_process_at_a_time_runs_a_phase(llama_folder: Path) -> None:
    """A launch that outlives its loop, or a second terminal, can't run a phase of the run at the same time."""
    run = build(llama_folder)
    with (
        RunDirectory("run").locked(PHASE_LOCK),
        refused(RunDirectoryError, "process", "run", "run_dir"),
    ):
        run.run_phase("generate", 0)
    run.run_phase("generate", 0)
    assert ("generate", "iteration-0") in steps()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_is_one_error_whoever_finds_out(
    error: Exception, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors and torch have their own messages for it (these are the originals); the command line has one."""

    def full(run: Any, iteration: int) -> None:
        raise error

    monkeypatch.setattr(phases, "PHASES", {**PHASES, "start": full})
    with refused(OSError, os.strerror(errno.ENOSPC)) as failure:
        build(llama_folder).run_phase("start", 0)
    assert isinstance(failure.value, OSError)
    assert failure.value.errno == errno.ENOSPC


def test_other_failures_stay_what_they_are(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a full disk is reported as one."""
    for error in (RuntimeError("CUDA out of memory"), SafetensorError("invalid header"), GenerationsError("damaged")):

        def fail(run: Any, iteration: int, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(phases, "PHASES", {**PHASES, "start": fail})
        with pytest.raises(type(error)) as failure:
            build(llama_folder).run_phase("start", 0)
        assert failure.value is error


@pytest.mark.slow
def test_what_a_full_disk_leaves_is_gone_over(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch fails in the middle of a checkpoint, safetensors in the middle of the model; then there is space again.

    The half-written checkpoint and the half-written model are ignored, and the result is that of an undisturbed run.
    """
    settings = {"num_iterations": 1, "save_strategy": "steps", "save_steps": 1}
    build(llama_folder, "whole", **settings).run()
    run, save, save_model = build(llama_folder, **settings), torch.save, SPINTrainer.save_model

    def half_a_checkpoint(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-2" not in os.readlink(f"/proc/self/fd/{file.fileno()}"):
            return save(content, file, *args, **kwargs)
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    def half_a_model(self: Any, folder: str, *args: Any, **kwargs: Any) -> None:
        if ".model.tmp" not in folder:
            return save_model(self, folder, *args, **kwargs)
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_a_checkpoint)
        with refused(OSError, os.strerror(errno.ENOSPC)):
            run.run()
    assert Path("run/iteration-0/train/checkpoint-2").exists()
    with monkeypatch.context() as patch:
        patch.setattr(SPINTrainer, "save_model", half_a_model)
        with refused(OSError, os.strerror(errno.ENOSPC)):
            run.run()
    assert not Path("run/iteration-0/model").exists()
    run.run()
    assert weights("run/iteration-0/model") == weights("whole/iteration-0/model")
    assert not list(Path("run").rglob(".model.tmp"))


# ---- separate launches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "name"),
    [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")],
    ids=["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"],
)
def test_what_needs_whole_replicas_is_refused_under_a_plugin(
    variable: str, name: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds by hand, too: the phase's model would be sharded. The message names the way out."""
    run = build(llama_folder)
    run.run_phase("start", 0)
    monkeypatch.setenv(variable, "true")
    for phase in ("start", "generate", "evaluate"):
        with refused(LaunchError, f"{phase} phase", name, "--accelerate_config"):
            run.run_phase(phase, 0)
    assert steps() == [("prepare", "data"), ("evaluate", "start")]


def test_phases_have_the_names_of_the_commands() -> None:
    """The command and the loop use the same names for phases."""
    from spin_trl.cli.run import PHASE_COMMANDS as COMMANDS

    assert set(PHASES) == set(COMMANDS)


def test_what_a_run_writes_down_is_json_that_other_tools_read(played: Path) -> None:
    """Journal and figures contain no NaN, since strict readers refuse it."""
    texts = Path(played, "journal.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [path.read_text(encoding="utf-8") for path in played.rglob("*.json")]
    assert len(texts) > 20
    for text in texts:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_accelerate_refuses_of_the_environment_is_a_message(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable was set by a cluster, or by another project."""

    def fail(**_: Any) -> Any:
        raise ValueError("invalid truth value a")

    monkeypatch.setattr("spin_trl.play.answering.at_hand.Accelerator", fail)
    with refused(RecipeError, "ACCELERATE_"):
        build(llama_folder).run_phase("start", 0)
