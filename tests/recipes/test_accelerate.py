"""Accelerate reads the shipped configurations, and the jobs of the Slurm script play a whole run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import runs
from messages import names
from spin_trl.config import shipped

CONFIGS = shipped.accelerate_configs()
SLURM = CONFIGS["single"].parent / "slurm.sh"

# name: distributed type, machines, processes, precision
EXPECTED = {
    "single": ("NO", 1, 1, "bf16"),
    "ddp": ("MULTI_GPU", 1, 8, "bf16"),
    "fsdp2": ("FSDP", 1, 8, "bf16"),
    "zero2": ("DEEPSPEED", 1, 8, "bf16"),
    "zero3": ("DEEPSPEED", 1, 8, "bf16"),
    "t4": ("NO", 1, 1, "fp16"),
    "two-machines": ("MULTI_GPU", 2, 16, "bf16"),
    "two-machines-zero3": ("DEEPSPEED", 2, 16, "bf16"),
}


def test_these_ship() -> None:
    """Each can be referred to by name."""
    assert set(CONFIGS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_a_configuration(name: str) -> None:
    """accelerate's own reader is used, which refuses unknown keys."""
    config = load_config_from_file(str(CONFIGS[name]))
    found = (config.distributed_type.value, config.num_machines, config.num_processes, config.mixed_precision)
    assert found == EXPECTED[name]


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("two-machines-zero3", 3)])
def test_deepspeed_gets_its_stage_and_saves_whole_weights(name: str, stage: int) -> None:
    """Without `zero3_save_16bit_model`, ZeRO-3 does not save a usable model."""
    settings = yaml.safe_load(CONFIGS[name].read_text(encoding="utf-8"))["deepspeed_config"]
    assert settings["zero_stage"] == stage
    assert settings["zero3_save_16bit_model"] == settings["zero3_init_flag"] == (stage == 3)


def test_fsdp_is_the_second_and_saves_whole_weights() -> None:
    """The settings are those passed on by accelerate's launcher."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS["fsdp2"]), "script.py"])
    launched, _, _ = _validate_launch_command(arguments)
    assert launched.use_fsdp
    assert (int(launched.fsdp_version), launched.fsdp_state_dict_type) == (2, "FULL_STATE_DICT")


# Stand-in for Slurm on one machine: a job runs when it is submitted, unless the previous one failed.
SBATCH = """#!/usr/bin/env bash
set -u
echo "$*" >> "$FAKE/submitted"
id=$(wc -l < "$FAKE/submitted")
tasks=
while [ $# -gt 0 ]; do
    case "$1" in
    --array=1-*) tasks=${1#--array=1-} ;;
    --dependency=afterok:*) grep -qx "${1##*:}" "$FAKE/succeeded" 2>/dev/null || { echo "$id"; exit 0; } ;;
    *slurm.sh) break ;;
    esac
    shift
done
failed=
for task in $(seq "${tasks:-1}"); do
    if [ -n "$tasks" ]; then export SLURM_ARRAY_TASK_ID=$task; else unset SLURM_ARRAY_TASK_ID; fi
    SLURM_JOB_NODELIST=localhost bash "$@" >> "$FAKE/output" 2>&1 || failed=1
done
[ -n "$failed" ] || echo "$id" >> "$FAKE/succeeded"
echo "$id;cluster"
"""
SRUN = """#!/usr/bin/env bash
while [ "$1" != bash ]; do shift; done
SLURM_PROCID=0 exec "$@"
"""
SCONTROL = "#!/bin/sh\necho localhost\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with stand-ins for Slurm's commands."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    settings = {"FAKE": str(folder), "GPUS": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PORT": "0"}
    for name, value in {**settings, "PATH": f"{folder}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NODES", "SHARDS", "BASELINE", "DPO", "TEST", "PUSH", "SBATCH_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG", "TRAIN_CONFIG"):
        config = {"distributed_type": "NO", "num_processes": 1, "num_machines": 1, "mixed_precision": "no"}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        monkeypatch.setenv(name, str(path))
    return folder


def submit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SLURM), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=400,
    )


@pytest.mark.slow
def test_a_run_as_jobs_is_the_run(slurm: Path, tmp_path: Path, llama_folder: Path) -> None:
    """There is one job per phase, in order, each after the previous one; settings reach the first one unchanged."""
    recipe = runs.recipe(tmp_path, llama_folder)
    done = submit(str(recipe), str(tmp_path / "jobs run"), "1", "--learning_rate", "[2e-2]")
    assert done.returncode == 0, done.stderr
    phases = ["start", "generate-0", "train-0", "evaluate-0"]
    assert done.stdout.splitlines() == [f"{name}: job {number}" for number, name in enumerate(phases, start=1)]
    submitted = (slurm / "submitted").read_text(encoding="utf-8").splitlines()
    assert "--dependency" not in submitted[0]
    for number, line in enumerate(submitted[1:], start=1):
        assert f"--dependency=afterok:{number} " in line
        assert "--kill-on-invalid-dep=yes" in line
    assert [stage for phase, stage in runs.steps(tmp_path / "jobs run") if phase == "evaluate"] == [
        "start",
        "iteration-0",
    ], (slurm / "output").read_text(encoding="utf-8")
    settings = yaml.safe_load((tmp_path / "jobs run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert settings["per_iteration"]["learning_rate"] == [2e-2]


@pytest.mark.slow
def test_generation_in_parts_is_an_array_of_tasks_and_a_job_that_merges_them(
    slurm: Path, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDS", "2")
    recipe = runs.recipe(tmp_path, llama_folder)
    done = submit(str(recipe), str(tmp_path / "jobs run"), "1")
    assert done.returncode == 0, done.stderr
    jobs = ["start", "generate-0", "merge-0", "train-0", "evaluate-0"]
    assert done.stdout.splitlines() == [f"{name}: job {number}" for number, name in enumerate(jobs, start=1)]
    submitted = (slurm / "submitted").read_text(encoding="utf-8").splitlines()
    assert ["--array=1-2 " in line for line in submitted] == [False, True, False, False, False]
    found = runs.steps(tmp_path / "jobs run")
    assert ("generate", "iteration-0") in found, (slurm / "output").read_text(encoding="utf-8")
    assert ("evaluate", "iteration-0") in found


@pytest.mark.slow
def test_jobs_behind_a_failure_do_nothing(slurm: Path, tmp_path: Path) -> None:
    """With a missing recipe, the start fails, and nothing else is attempted."""
    done = submit("no-such-recipe", str(tmp_path / "run"), "1")
    assert done.returncode == 0
    assert not (slurm / "succeeded").exists()
    lines = (slurm / "output").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("spin-trl: ") and "'no-such-recipe'" in line]) == 1


def test_a_push_that_fails_holds_no_phase_up(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many compute nodes have no access to the Hub. Later jobs wait for the iteration, not for the push."""
    said = tmp_path / "said"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> "{said}"\ncase "$*" in *"spin_trl push"*) exit 1 ;; esac\n', encoding="utf-8"
    )
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setenv("PUSH", "1")
    done = submit("zephyr-7b", str(tmp_path / "run"), "2")
    assert done.returncode == 0, done.stderr
    found = [line.split("-m spin_trl ")[1].split()[0] for line in said.read_text(encoding="utf-8").splitlines()]
    assert found == ["start", *["generate", "train", "evaluate", "push"] * 2]
    jobs = dict(line.split(": job ") for line in done.stdout.splitlines())
    waits = f"--dependency=afterok:{jobs['evaluate-0']} "
    submitted = (slurm / "submitted").read_text(encoding="utf-8").splitlines()
    assert [line.split("--job-name ")[1].split()[0] for line in submitted if waits in line] == ["push-0", "generate-1"]


def test_dpo_and_the_test_set_follow_the_last_iteration(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPO is trained sharded, and then measured with full replicas. What they change is pushed, too."""
    said = tmp_path / "said"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n', encoding="utf-8")
    python.chmod(0o755)
    for name, value in {"PYTHON": str(python), "DPO": "1", "TEST": "1", "PUSH": "1"}.items():
        monkeypatch.setenv(name, value)
    done = submit("zephyr-7b", str(tmp_path / "run"), "1")
    assert done.returncode == 0, done.stderr
    launched = said.read_text(encoding="utf-8").splitlines()
    found = [
        (Path(line.split("--config_file ")[1].split(" --num_")[0]).stem, line.split("-m spin_trl ")[1])
        for line in launched
    ]
    last = [(config, phase.split()[0]) for config, phase in found if "--iteration" not in phase][1:]
    assert last == [
        ("single", "push"),
        ("TRAIN_CONFIG", "dpo"),
        ("CONFIG", "dpo"),
        ("CONFIG", "test"),
        ("single", "push"),
    ]
    jobs = dict(line.split(": job ") for line in done.stdout.splitlines())
    submitted = (slurm / "submitted").read_text(encoding="utf-8").splitlines()
    before = {"dpo": "evaluate-0", "dpo-figures": "dpo", "test": "dpo-figures", "push-end": "test"}
    for name, after in before.items():
        (line,) = (line for line in submitted if line.split("--job-name ")[1].split()[0] == name)
        assert f"--dependency=afterok:{jobs[after]} " in line


def test_a_step_gets_the_cpus_of_its_job(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's `srun` ignores the CPUs requested from `sbatch`: eight processes would share one CPU."""
    said = tmp_path / "said"
    (slurm / "srun").write_text(f'#!/bin/sh\necho "${{SRUN_CPUS_PER_TASK-none}}" >> "{said}"\n', encoding="utf-8")
    arguments = ["bash", str(SLURM), "--job", "config.yaml", "start", "recipe"]
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    subprocess.run(arguments, check=True)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    subprocess.run(arguments, check=True)
    assert said.read_text(encoding="utf-8").split() == ["none", "64"]


def test_without_arguments_it_says_how_it_is_used(slurm: Path) -> None:
    """Nothing is submitted."""
    done = submit()
    assert done.returncode == 2
    assert names(done.stderr, "NODES=2 GPUS=8 bash slurm.sh RECIPE RUN_DIR ITERATIONS")
    assert not (slurm / "submitted").exists()


def test_two_machines_share_a_phase(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one launcher per machine, each with its rank and the first machine's name, and 16 processes in total.

    A baseline arm is trained sharded, and then measured with full replicas.
    """
    said = tmp_path / "said"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n', encoding="utf-8")
    python.chmod(0o755)
    (slurm / "srun").write_text(
        '#!/usr/bin/env bash\nwhile [ "$1" != bash ]; do shift; done\n'
        'for rank in 0 1; do SLURM_PROCID=$rank "$@"; done\n',
        encoding="utf-8",
    )
    for name, value in {"NODES": "2", "GPUS": "8", "PORT": "29511", "PYTHON": str(python), "BASELINE": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("CONFIG", "TRAIN_CONFIG"):
        monkeypatch.delenv(name)
    assert submit("zephyr-7b", str(tmp_path / "run"), "1").returncode == 0
    lines = said.read_text(encoding="utf-8").splitlines()
    phases = [line.partition("-m spin_trl ")[2].split()[0] for line in lines]
    each = ["start", "generate", "train", "evaluate", "baseline", "baseline"]
    assert phases == [phase for phase in each for _ in range(2)]
    for index, line in enumerate(lines):
        assert f"--machine_rank {index % 2} --main_process_ip localhost --main_process_port 29511" in line
        assert "--num_machines 2 --num_processes 16" in line
        config = "two-machines-zero3" if index // 2 in (2, 4) else "two-machines"
        assert f"/{config}.yaml " in line
