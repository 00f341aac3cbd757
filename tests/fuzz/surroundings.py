"""Surroundings: faults of a command's machine, shell or launcher. The recipe and the data are valid."""

from __future__ import annotations

import functools
import io
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from spin_trl.play.parent import PARENT_PIPE
from spin_trl.run.run import LAUNCHED

from .materials import Materials
from .parts import Input, settings_of, write_recipe


def _close(number: int, name: str) -> None:
    """Start without a stream, as a daemon does."""
    os.close(number)
    setattr(sys, name, None)


def _without_a_reader() -> None:
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(read)


def _full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _in_ascii() -> None:
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="ascii")


def _in_a_folder_that_is_gone() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(os.getcwd())


def _at_most(limit: int, most: int) -> None:
    resource.setrlimit(limit, (most, most))


def _without_a_home() -> None:
    os.environ.pop("HOME", None)


def _without_a_folder_for_temporary_files() -> None:
    os.environ["TMPDIR"] = "/nowhere"
    tempfile.tempdir = "/nowhere"


VARIABLES: tuple[dict[str, str], ...] = (
    {"HOME": ""}, {"HOME": "/nowhere"}, {"HOME": "a"}, {"COLUMNS": "0"}, {"COLUMNS": "a"}, {"COLUMNS": "-1"}, {"LINES": "a"},
    {"COLUMNS": "10"}, {"TERM": ""}, {"TERM": "nothing"}, {"LANG": "xx"}, {"LC_ALL": "C"}, {"TZ": "nowhere"},
    {"NO_COLOR": "a"},
    {"FORCE_COLOR": "1"}, {"RANK": "a"}, {"RANK": "5"}, {"WORLD_SIZE": "a"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "-1"},
    {"WORLD_SIZE": ""}, {"LOCAL_RANK": "a"}, {"LOCAL_RANK": "7"}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "-2"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "a"},
    {"RANK": "3", "WORLD_SIZE": "2", "LOCAL_RANK": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"ACCELERATE_MIXED_PRECISION": "a"}, {"ACCELERATE_MIXED_PRECISION": "fp8"}, {"ACCELERATE_USE_FSDP": "true"},
    {"ACCELERATE_USE_DEEPSPEED": "true"}, {"ACCELERATE_TORCH_DEVICE": "nothing"}, {"ACCELERATE_TORCH_DEVICE": "cuda:7"},
    {"ACCELERATE_USE_CPU": "a"}, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "a"}, {"ACCELERATE_DYNAMO_BACKEND": "a"},
    {"CUDA_VISIBLE_DEVICES": "a"}, {"CUDA_VISIBLE_DEVICES": ""}, {"OMP_NUM_THREADS": "a"}, {"OMP_NUM_THREADS": "0"},
    {"TQDM_DISABLE": "a"}, {"HF_TOKEN": "\udcff"}, {"HF_TOKEN": "a\nb"}, {"HF_ENDPOINT": "http://["}, {LAUNCHED: "a"},
    {PARENT_PIPE: "missing/loop"}, {PARENT_PIPE: "train.jsonl"}, {PARENT_PIPE: ""}, {PARENT_PIPE: "run"},
    {"SPIN_TRL_TRACEBACK": "a"},
    {"TRANSFORMERS_VERBOSITY": "a"}, {"PYTHONIOENCODING": "nothing"}, {"TENSORBOARD_LOGGING_DIR": "/nowhere"},
    {"SLURM_PROCID": "a", "SLURM_NTASKS": "a", "SLURM_JOB_ID": "a"}, {"PMI_RANK": "0", "PMI_SIZE": "2"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, {"TPU_NAME": "a"}, {"XDG_CACHE_HOME": "/dev/null"},
    {"MPLCONFIGDIR": "/nowhere"}, {"MPLBACKEND": "nothing"}, {"SOURCE_DATE_EPOCH": "a"}, {"PATH": ""}, {"PWD": "/nowhere"},
)  # fmt: skip
"""Variables of the environment, one or several at a time."""

WITHOUT_A_READER = "nobody who reads stdout"

SURROUNDINGS: dict[str, Callable[[], object]] = {
    "no stdin": functools.partial(_close, 0, "stdin"),
    "no stdout": functools.partial(_close, 1, "stdout"),
    WITHOUT_A_READER: _without_a_reader,
    "stdout on a full disk": _full,
    "stdout in ASCII": _in_ascii,
    "a folder that is gone": _in_a_folder_that_is_gone,
    "few open files": functools.partial(_at_most, resource.RLIMIT_NOFILE, 12),
    "some open files": functools.partial(_at_most, resource.RLIMIT_NOFILE, 24),
    "small files": functools.partial(_at_most, resource.RLIMIT_FSIZE, 4_000),
    "files of 20 KB": functools.partial(_at_most, resource.RLIMIT_FSIZE, 20_000),
    "no home": _without_a_home,
    "no folder for temporary files": _without_a_folder_for_temporary_files,
    "files that nobody may read": functools.partial(os.umask, 0o777),
    "files that only others may read": functools.partial(os.umask, 0o700),
    **{f"{one!r}": functools.partial(os.environ.update, one) for one in VARIABLES},
}
"""Surroundings by description: the function that sets them up in the process of the command."""

COMMANDS = {"start": 6, "run": 3, "recipes": 1, "plan": 1, "report": 2, "card": 2, "generate": 1}


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a valid command on a faulty machine."""
    # Half of them don't involve a variable: there are many more variables than anything else.
    named = [name for name in SURROUNDINGS if not name.startswith("{")]
    surroundings = rng.choice(named if rng.random() < 0.5 else list(SURROUNDINGS))
    command = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
    as_nobody = "files that" in surroundings
    arguments = [command]
    if command in ("report", "card", "generate"):
        shutil.copytree(rng.choice(materials.played), folder, symlinks=True, dirs_exist_ok=True)
        arguments.append("run")
    elif command != "recipes":
        shutil.copytree(materials.model, folder / "model")  # a user without rights reads the files next to the recipe
        shutil.copy(materials.data, folder / "train.jsonl")
        own = {"model_name_or_path": "model", "dataset_name": "train.jsonl", "max_steps": 1}
        arguments.append(write_recipe(folder, settings_of(materials, **own)))
    return Input(arguments, f"{' '.join(arguments)} with {surroundings}", as_nobody, surroundings=surroundings)
