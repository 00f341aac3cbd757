"""Read the files around the package, and look up what they name."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import spin_trl

TOP = Path(spin_trl.__file__).parents[1]


def text_of(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")


def yaml_of(name: str) -> Any:
    """Read a YAML file. GitHub's key `on` is a boolean in YAML 1.1, and is text here."""
    found = yaml.safe_load(text_of(name))
    if isinstance(found, dict) and True in found:
        found["on"] = found.pop(True)
    return found


@cache
def settings() -> configparser.ConfigParser:
    """Read setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg", encoding="utf-8")
    return parser


def constraint(package: str) -> str:
    """Return the version of a package in constraints.txt."""
    return dict(line.split("==") for line in text_of("constraints.txt").splitlines())[package]


def pythons() -> list[str]:
    """Return the versions of Python that setup.cfg lists as supported."""
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", settings()["metadata"]["classifiers"])


@cache
def make_targets() -> frozenset[str]:
    """Return the targets of `make`."""
    return frozenset(
        name
        for line in text_of("Makefile").splitlines()
        if re.match(r"^[a-z][a-z -]*:(?!=)", line)
        for name in line.partition(":")[0].split()
    )


def missing_targets(commands: Iterable[str]) -> list[str]:
    """Return the targets that commands ask `make` for and that the Makefile does not have."""
    asked = [
        word
        for command in commands
        for line in re.findall(r"(?:^|&& )make ([^\n&|>#]*)", command, re.MULTILINE)
        for word in line.split()
        if "=" not in word and not word.startswith("-")
    ]
    return [word for word in asked if word not in make_targets()]


def missing_scripts(commands: Iterable[str]) -> list[str]:
    """Return the scripts in `.ci` that commands name and that are missing, or can't be run the way they are named."""
    missing = []
    for command in commands:
        for before, name in re.findall(r"(\S+ )?(?<![\w/])(\.ci/[\w.]+)", command):
            path = TOP / name
            as_is = before.strip() not in ("python", "python3", "bash")
            if not path.is_file() or (as_is and not path.stat().st_mode & 0o100):
                missing.append(name)
    return missing


def tracked() -> list[str]:
    """Return the files of the repository, including those that are new and not ignored."""
    done = subprocess.run(
        # Git would refuse a tree that belongs to another user.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return [name for name in done.stdout.split("\0") if (TOP / name).is_file()]


def of_schema(schema: str, *names: str) -> str:
    """Validate files against a published schema, and return its complaints. Schemas ship with check-jsonschema."""
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *names],
        cwd=TOP,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def copy_of_the_tree(target: Path, *names: str) -> Path:
    """Copy files and folders of the repository, without Python's caches."""
    for name in names:
        source = TOP / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target
