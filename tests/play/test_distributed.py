"""Two processes on one machine, connected by gloo, run the loop in one launch, a single phase, and each phase as its
own launch.
"""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import runs
from messages import names
from served_model import served_model
from spin_trl.cli import main
from spin_trl.cli.session import session_of
from spin_trl.run.directory import RunDirectory

pytestmark = pytest.mark.slow

# Imported by every process before the command; it records how the trainer wraps its model. One process may be slow.
SPY = """
import os, sys
from spin_trl.training.trainer import SPINTrainer
compute = SPINTrainer._compute_loss
def spy(self, model, inputs, return_outputs):
    with open(os.environ["SPY"], "a", encoding="utf-8") as file:
        print(type(model).__name__, self.args.world_size, len(inputs["input_ids"]), file=file)
    return compute(self, model, inputs, return_outputs)
SPINTrainer._compute_loss = spy
if os.environ["RANK"] == os.environ.get("DYING_RANK"):
    train = SPINTrainer.training_step
    def die(self, *args, **kwargs):
        if self.state.global_step == 1:
            exec(os.environ["HOW"])
        return train(self, *args, **kwargs)
    SPINTrainer.training_step = die
if os.environ["RANK"] == os.environ.get("SLOW_RANK"):
    import time
    from spin_trl.play import gate
    judge = gate.judge
    def late(*args):
        verdict = judge(*args)
        time.sleep(0.3)
        return verdict
    gate.judge = late
from spin_trl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def accelerate(folder: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess:
    """Run our command with `accelerate launch` on CPUs. accelerate's own CPU option starts one process; this starts as
    many as requested.
    """
    spy = folder / "spy.py"
    spy.write_text(SPY, encoding="utf-8")
    options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, str(spy), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "SPY": str(folder / "seen.txt")},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=400,
        check=False,
    )


def accelerate_config(folder: Path, processes: int) -> Path:
    """Write a configuration file as `accelerate config` does."""
    settings = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": processes,
        "main_process_port": 0,
        "machine_rank": 0,
        "use_cpu": False,
    }
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def seen(folder: Path) -> set[str]:
    return set((folder / "seen.txt").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return the directory of a run in one process, with the batch size of two processes together."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["run", str(runs.recipe(folder, llama_folder, per_device_train_batch_size=4))]) == 0
    return folder / "run"


def test_the_loop_plays_in_place_under_ddp_and_gives_what_one_process_gives(tmp_path, llama_folder, alone) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, per_device_train_batch_size=2)
    done = accelerate(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    # Two pairs per process are four rows; the model is wrapped, so the gradients were averaged.
    assert seen(tmp_path) == {"DistributedDataParallel 2 4"}
    together = tmp_path / "run"
    assert runs.answers(together, "iteration-0") == runs.answers(alone, "iteration-0")
    for stage in ("iteration-0", "iteration-1"):
        one, two = runs.entry("train", stage, alone), runs.entry("train", stage, together)
        assert two["steps"] == one["steps"]
        assert two["first"]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    for moment in ("first", "last"):
        one, two = (runs.entry("train", "iteration-0", run)[moment] for run in (alone, together))
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        for name in ("rewards/margins", "logps/chosen"):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
    figures = [runs.entry("evaluate", "iteration-0", run)["nll"] for run in (alone, together)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)
    # Only one process prints.
    assert done.stdout.count("Best: ") == 1
    assert len(runs.journal(together)) == len(runs.journal(alone))


def test_a_process_that_is_late_at_the_gate_is_waited_for(tmp_path, llama_folder, monkeypatch) -> None:
    """One process records the decision; another that reads the journal after that must pass the same number of barriers."""
    monkeypatch.setenv("SLOW_RANK", "1")
    recipe = runs.recipe(tmp_path, llama_folder, per_device_train_batch_size=2)
    done = accelerate(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert [stage for phase, stage in runs.steps(tmp_path / "run") if phase == "gate"] == [
        "iteration-0",
        "iteration-1",
    ]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise RuntimeError('a GPU has fallen off the bus')", "RuntimeError: a GPU has fallen off the bus"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "Signal 9 (SIGKILL)"),
    ],
    ids=["raises", "is killed"],
)
def test_a_process_that_dies_ends_the_run_and_nobody_waits_for_it(
    how: str, said: str, tmp_path, llama_folder, monkeypatch
) -> None:
    """The other process is in the middle of a step that needs both; finished work is kept."""
    monkeypatch.setenv("DYING_RANK", "1")
    monkeypatch.setenv("HOW", how)
    recipe = runs.recipe(tmp_path, llama_folder, per_device_train_batch_size=2)
    done = accelerate(tmp_path, "run", str(recipe))  # with a timeout of seven minutes
    assert done.returncode != 0
    assert names(done.stderr, said)
    assert runs.steps(tmp_path / "run")[-1] == ("generate", "iteration-0")
    if "SIGKILL" in said:
        monkeypatch.delenv("DYING_RANK")
        done = accelerate(tmp_path, "run", str(recipe), "--num_iterations", "1")
        assert done.returncode == 0, done.stderr


def test_phases_may_run_on_different_numbers_of_processes(tmp_path, llama_folder, alone) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, per_device_train_batch_size=4)
    run = str(tmp_path / "run")
    assert main(["start", str(recipe)]) == 0
    done = accelerate(tmp_path, "generate", run, "--iteration", "0")
    assert done.returncode == 0, done.stderr
    assert main(["train", run, "--iteration", "0"]) == 0
    done = accelerate(tmp_path, "evaluate", run, "--iteration", "0")
    assert done.returncode == 0, done.stderr
    assert runs.weights(tmp_path / "run/iteration-0/model") == runs.weights(alone / "iteration-0/model")
    found, expected = (runs.entry("evaluate", "iteration-0", folder) for folder in (tmp_path / "run", alone))
    for name in ("nll", "win_rate", "length_generated", "identical", "truncated"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_every_phase_is_a_launch_of_its_own_with_an_accelerate_config(tmp_path, llama_folder, alone) -> None:
    config = accelerate_config(tmp_path, processes=2)
    recipe = runs.recipe(tmp_path, llama_folder, per_device_train_batch_size=2, num_iterations=1)
    assert main(["run", str(recipe), "--accelerate_config", str(config)]) == 0
    assert runs.answers(tmp_path / "run", "iteration-0") == runs.answers(alone, "iteration-0")
    assert [phase for phase, _ in runs.steps(tmp_path / "run")] == [
        "prepare",
        "evaluate",
        "generate",
        "train",
        "evaluate",
        "gate",
    ]
    found, expected = (runs.entry("train", "iteration-0", folder) for folder in (tmp_path / "run", alone))
    assert found["steps"] == expected["steps"]
    assert found["last"]["loss"] == pytest.approx(expected["last"]["loss"], rel=1e-3)


def test_phases_that_are_launched_are_watched_as_well(tmp_path, llama_folder) -> None:
    """They report their progress in a file; their output goes through the display, and no progress bar breaks it."""
    config = accelerate_config(tmp_path, processes=1)
    recipe = runs.recipe(
        tmp_path, llama_folder, num_iterations=1, num_train_epochs=60, learning_rate=1e-4, disable_tqdm=False
    )
    session = session_of(str(recipe), ["--accelerate_config", str(config)])
    file = io.StringIO()
    session._console = Console(file=file, width=120, height=40, force_terminal=True, color_system=None)
    session.run()
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert re.search(r"iteration-0: train, [1-9]\d* of 180 steps, [\d.]+/s, 0:\d\d left", said)
    assert names(said, "of 12 generated", "`max_new_tokens`")
    assert "%|" not in said
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text(encoding="utf-8"))["disable_tqdm"] is False


def test_a_phase_that_fails_in_its_launch_ends_the_run_with_its_own_words(tmp_path, llama_folder, capfd) -> None:
    config = accelerate_config(tmp_path, processes=1)
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    assert main(["start", str(recipe)]) == 0
    generations = RunDirectory(tmp_path / "run").own("iteration-0") / "generations"
    generations.parent.mkdir(parents=True, exist_ok=True)
    generations.write_text("mine", encoding="utf-8")
    assert main(["run", str(recipe), "--accelerate_config", str(config)]) == 1
    errors = capfd.readouterr().err
    assert names(errors, generations), errors
    assert names(errors, "generate phase", "iteration 0", "exit code 1"), errors


def test_a_third_branch_and_the_weights_of_a_step_are_the_same_under_ddp(tmp_path, llama_folder) -> None:
    """In iteration 1, T-SPIN also has proto responses, and IRIS's softmax spans the pairs of both processes."""
    for loss_type, own in (
        ("tspin", {}),
        ("iris", {"iris_schedule": "fixed", "iris_alpha": [1.5], "learning_rate": 1e-3}),
    ):
        folders = [tmp_path / f"{loss_type}-{name}" for name in ("alone", "together")]
        one, two = (
            runs.recipe(folder, llama_folder, per_device_train_batch_size=size, loss_type=loss_type, **own)
            for folder, size in zip(folders, (4, 2), strict=True)
        )
        assert main(["run", str(one)]) == 0
        done = accelerate(folders[1], "run", str(two))
        assert done.returncode == 0, done.stderr
        assert seen(folders[1]) == {"DistributedDataParallel 2 4"}
        for stage in ("iteration-0", "iteration-1"):
            found, expected = (runs.entry("train", stage, folder / "run") for folder in (folders[1], folders[0]))
            for moment in ("first", "last"):
                assert found[moment]["loss"] == pytest.approx(expected[moment]["loss"], rel=1e-3, abs=1e-4), stage


def test_processes_share_the_scoring_by_the_start(tmp_path, llama_folder) -> None:
    """With `opponent_mix` under DDP, the start's log-probabilities and the losses equal those of one process."""
    folders = [tmp_path / name for name in ("alone", "together")]
    own = {"opponent_mix": 0.5, "learning_rate": 1e-3, "held_out_fraction": 0.0, "precompute_ref_batch_size": 4}
    one, two = (
        runs.recipe(folder, llama_folder, per_device_train_batch_size=size, **own)
        for folder, size in zip(folders, (4, 2), strict=True)
    )
    assert main(["run", str(one)]) == 0
    done = accelerate(folders[1], "run", str(two))
    assert done.returncode == 0, done.stderr
    assert seen(folders[1]) == {"DistributedDataParallel 2 4"}
    alone, together = (
        [
            json.loads(file.read_text(encoding="utf-8"))["logps"]
            for file in sorted(folder.glob("run/start/logps/real-*"))
        ]
        for folder in folders
    )
    assert len(alone[0]) == runs.ROWS
    assert together[0] == pytest.approx(alone[0], abs=1e-4)
    for stage in ("iteration-0", "iteration-1"):
        found, expected = (runs.entry("train", stage, folder / "run")["first"] for folder in (folders[1], folders[0]))
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3, abs=1e-4), stage


@pytest.mark.parametrize("launches", [False, True], ids=["in place", "launches"])
def test_one_process_asks_the_servers_for_all_answers_of_a_model_in_one_start(
    launches: bool, tmp_path: Path, folder: Path
) -> None:
    """Every model also answers the next iteration's training prompts; the other process waits for the stores."""
    command, starts = served_model(tmp_path)
    settings = {"engine": "vllm", "vllm_command": command, "generate_ahead": "always", "on_regression": "continue"}
    settings |= {"degeneration_stop": {}, "per_device_train_batch_size": 2, "evaluate_greedy": True}
    recipe = str(runs.recipe(tmp_path, folder, num_iterations=1 if launches else 2, **settings))
    if launches:
        assert main(["run", recipe, "--accelerate_config", str(accelerate_config(tmp_path, processes=2))]) == 0
    else:
        done = accelerate(tmp_path, "run", recipe)
        assert done.returncode == 0, done.stderr
        assert seen(tmp_path) == {"DistributedDataParallel 2 4"}
    served = [json.loads(line)[1] for line in starts.read_text(encoding="utf-8").splitlines()]
    assert [Path(model).parent.name for model in served[1:]] == ["iteration-0", "iteration-1"][: 1 if launches else 2]
    assert Path(served[0]).samefile(folder)
    assert not list((tmp_path / "run").glob("*/ahead"))
