"""Paths that are not a file, not a folder, unreadable, endless, too long or missing, wherever a path may be given."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .materials import Materials
from .parts import Input, settings_of, write_recipe

NAMES = (
    "", " ", ".", "..", "/", "//", "~", "~nobody-of-this-name", "~nobody-of-this-name/a", "$HOME", "*", "[a]",
    "a\x00b", "\udcff", "a\nb", "a" * 300,
    "a/" * 2_500, "/proc/self/mem", "/proc/self/environ", "/proc/self", "/proc", "/proc/1/root", "/proc/self/fd/0",
    "/sys", "/dev", "/dev/null",
    "/dev/zero", "/dev/full", "/dev/stdin", "/dev/tty", "/dev/fd/99", "missing", "missing/a", "missing.jsonl",
    "missing.yaml", "file:///etc", "s3://a/b",
    "hf://datasets/a/b", "https://example.invalid/a.jsonl", "a:b", "C:\\a", "-", "--help", "me/data", "me/data/more",
    "quickstart/..", "small.yaml/a",
    "zephyr-7b/../../..", "small.yaml/", "./small.yaml", "http://[", "org//name", "a b/c d", "é/日本",
    "name.with.dots/and-more_", "a--b/c", ".hidden",
)  # fmt: skip
"""Names that need no file."""


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # the path of a socket must be short


def _in(path: Path, name: str, content: str) -> None:
    path.mkdir()
    (path / name).write_text(content, encoding="utf-8")


MADE: dict[str, Callable[[Path], Any]] = {
    "an empty folder": Path.mkdir,
    "an empty file": lambda path: path.write_bytes(b""),
    "a file of NUL": lambda path: path.write_bytes(bytes(100)),
    "a program": lambda path: path.write_bytes(b"\x7fELF" + os.urandom(0) + bytes(200)),
    "a FIFO": os.mkfifo,
    "a socket": _bind,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to its folder": lambda path: path.symlink_to("."),
    "a link to the root": lambda path: path.symlink_to("/"),
    "a link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "a folder for journal.jsonl": lambda path: (path / "journal.jsonl").mkdir(parents=True),
    "a folder for recipe.yaml": lambda path: (path / "recipe.yaml").mkdir(parents=True),
    "a folder for spin.yaml": lambda path: (path / "spin.yaml").mkdir(parents=True),
    "a folder for .spin_trl.json": lambda path: (path / ".spin_trl.json").mkdir(parents=True),
    "a folder for config.json": lambda path: (path / "config.json").mkdir(parents=True),
    "a folder for state.json": lambda path: (path / "state.json").mkdir(parents=True),
    "a folder for train.jsonl": lambda path: (path / "train.jsonl").mkdir(parents=True),
    "an empty recipe.yaml": lambda path: _in(path, "recipe.yaml", ""),
    "an empty journal": lambda path: _in(path, "journal.jsonl", ""),
    "an empty marker": lambda path: _in(path, ".spin_trl.json", ""),
    "an empty config.json": lambda path: _in(path, "config.json", ""),
    "a config.json of nothing": lambda path: _in(path, "config.json", "{}"),
    "a config.json that is a list": lambda path: _in(path, "config.json", "[]"),
    "a config.json of an unknown model": lambda path: _in(path, "config.json", '{"model_type": "nothing"}'),
    "an adapter of nothing": lambda path: _in(path, "adapter_config.json", "{}"),
    "an adapter of itself": lambda path: _in(
        path, "adapter_config.json", '{"base_model_name_or_path": ".", "peft_type": "LORA", "r": "a"}'
    ),
    "an empty dataset_dict.json": lambda path: _in(path, "dataset_dict.json", ""),
    "a state.json of nothing": lambda path: _in(path, "state.json", "{}"),
    "a folder that is read only": lambda path: path.mkdir(mode=0o555),
    "a folder that is closed": lambda path: path.mkdir(mode=0o000),
    "a file that is closed": lambda path: path.touch(mode=0o000),
}
"""Things that may exist at a path: by description, the function that creates them."""

WITH = ("", "", "", ".jsonl", ".json", ".csv", ".parquet", ".arrow", ".yaml", ".jsonl.gz")
"""File name extensions."""

SETTINGS = (
    "dataset_name", "dataset_name", "held_out_name", "model_name_or_path", "model_name_or_path", "run_dir", "run_dir",
    "output_dir",
    "accelerate_config", "deepspeed", "scorer", "rubric", "resume_from_checkpoint", "fsdp_config", "hub_model_id",
)  # fmt: skip

COMMANDS = ("start", "plan", "run", "report", "card", "push", "generate", "train")
"""Commands whose first argument is a path."""


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a path, given as the first argument of a command or as a setting."""
    as_nobody = False
    if rng.random() < 0.5:
        what = name = rng.choice(NAMES)
    else:
        what = rng.choice(list(MADE))
        name = f"made{rng.choice(WITH)}"
        before = os.getcwd()
        os.chdir(folder)
        try:
            MADE[what](Path(name))
        finally:
            os.chdir(before)
        as_nobody = "closed" in what or "read only" in what
    where = rng.choice(["argument", *SETTINGS])
    if where == "argument":
        command = rng.choice(COMMANDS)
        write_recipe(folder, settings_of(materials))
        return Input([command, name], f"{command} {what!r:.100}", as_nobody)
    if as_nobody and where not in ("dataset_name", "run_dir"):
        where = "run_dir"
    settings = settings_of(materials)
    if as_nobody:  # a user without rights reads the files next to it
        shutil.copytree(materials.model, folder / "model")
        shutil.copy(materials.data, folder / "train.jsonl")
        settings |= {"model_name_or_path": "model", "dataset_name": "train.jsonl"}
    settings[where] = name
    if "\x00" in name or rng.random() < 0.7:
        return Input(["start", write_recipe(folder, settings)], f"{where}: {what!r:.100}", as_nobody)
    del settings[where]
    return Input(["start", write_recipe(folder, settings), f"--{where}={name}"], f"--{where} {what!r:.100}", as_nobody)
