"""The Dockerfile copies existing files, keeps secrets out, and its commands work.

No image is built here. A stage becomes a folder, and each of its commands except apt's runs in it, with a virtual
environment that sees the packages of these tests: nothing is downloaded.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from project.repository import TOP, pythons, text_of


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile: its instruction, value, and stage."""

    name: str
    value: str
    stage: str


def read(text: str) -> list[Instruction]:
    """Read the instructions of a Dockerfile: continued lines are joined, comments are left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found, stage = [], ""
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, value = line.strip().partition(" ")
            if name == "FROM":
                stage = re.search(r" AS (\w+)$", value)[1]
            found.append(Instruction(name, value.strip(), stage))
    return found


INSTRUCTIONS = read(text_of("Dockerfile"))
STAGES = [item.stage for item in INSTRUCTIONS if item.name == "FROM"]
IMAGES = ("cpu", "cuda")


def of(name: str, stage: str | None = None) -> list[str]:
    """Return the values of all instructions with this name."""
    return [item.value for item in INSTRUCTIONS if item.name == name and stage in (None, item.stage)]


def copied(value: str) -> tuple[str, list[str], str]:
    """Parse a COPY: the stage that it copies from, if any, the sources, and the target."""
    words = value.split()
    other = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
    return other, words[:-1], words[-1]


def is_left_out(name: str, patterns: list[str]) -> bool:
    """Return whether .dockerignore keeps a file or a folder at the top out of an image: its last matching pattern
    decides.
    """
    left_out = False
    for pattern in patterns:
        if fnmatch.fnmatch(name, pattern.removeprefix("!").removeprefix("**/")):
            left_out = not pattern.startswith("!")
    return left_out


_NOT_SEEN = re.compile(r"(?:__editable__\W*_*)?spin_trl|pip(?:-|$)|.*\.pth$|__pycache__")
"""Packages that an image installs itself."""

_ABSOLUTE = re.compile(r"(?<![\w:/.])/\w")

IGNORED = [line for line in text_of(".dockerignore").splitlines() if line and not line.startswith("#")]


def test_a_dockerfile_is_read() -> None:
    text = "# one\nFROM python:3.12 AS base\nRUN a \\\n    # why\n    && b\nENV A=1\n\nFROM base AS cpu\n"
    text += "COPY --from=base x y z\n"
    assert read(text) == [
        Instruction("FROM", "python:3.12 AS base", "base"),
        Instruction("RUN", "a && b", "base"),
        Instruction("ENV", "A=1", "base"),
        Instruction("FROM", "base AS cpu", "cpu"),
        Instruction("COPY", "--from=base x y z", "cpu"),
    ]
    assert copied("--from=base x y z") == ("base", ["x", "y"], "z")


def test_there_is_an_image_with_cuda_and_one_without() -> None:
    """The image with CUDA is the last stage, which is built by default."""
    assert set(IMAGES) <= set(STAGES)
    assert STAGES[-1] == "cuda"
    said = text_of("Dockerfile").partition("\nARG ")[0]
    assert "docker build --tag spin_trl ." in said
    assert "docker build --target cpu" in said


def test_every_source_of_a_copy_is_there_and_gets_in() -> None:
    sources = [source for other, names, _ in map(copied, of("COPY")) for source in names if not other]
    assert len(sources) > 5
    assert [name for name in sources if not (TOP / name).exists() or is_left_out(name, IGNORED)] == []
    assert [other for other, *_ in map(copied, of("COPY")) if other and other not in STAGES] == []


def test_nothing_else_gets_in() -> None:
    """The folder that an image is built in may hold runs, keys and a git history."""
    for name in (".git", ".env", "id_rsa", "runs", "tests", ".venv", "token.json"):
        assert is_left_out(name, IGNORED)
    needed = {source for other, names, _ in map(copied, of("COPY")) for source in names if not other}
    assert {pattern.removeprefix("!") for pattern in IGNORED if pattern.startswith("!")} == needed


def test_an_image_holds_no_secret() -> None:
    named = " ".join([*of("ARG"), *of("ENV")]).lower()
    assert not re.search(r"token|password|secret|key", named)
    assert of("ADD") == []


def test_base_images_have_a_version() -> None:
    """The argument's default is a supported Python, and is what is built."""
    (python,) = [value.removeprefix("PYTHON=") for value in of("ARG") if value.startswith("PYTHON=")]
    assert python in pythons()
    outside = [value.split()[0] for value in of("FROM") if value.split()[0] not in STAGES]
    assert set(outside) == {"python:${PYTHON}-slim-bookworm"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_the_command_and_not_as_root(image: str) -> None:
    items = [item.name for item in INSTRUCTIONS if item.stage == image]
    assert of("USER", image) == ["spin"]
    assert "RUN" not in items[items.index("USER") :]
    assert json.loads(of("ENTRYPOINT", image)[0]) == ["spin-trl"]
    assert any("useradd" in command and " spin" in command for command in of("RUN", "base"))


@pytest.mark.slow
@pytest.mark.parametrize("image", IMAGES)
def test_the_commands_of_an_image_work(image: str, tmp_path: Path) -> None:
    """apt's are not run. Versions are those of constraints.txt, or pip would have to download them, and may not."""
    python = environment(tmp_path / "environment")
    stages: dict[str, Path] = {}
    for stage in STAGES:
        if stage in ("wheel", "base", image):
            build(stage, stages, tmp_path, python)
    ran = subprocess.run(
        [str(python.parent / "spin-trl"), "recipes"],
        cwd=tmp_path,
        env=surroundings(python),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "quickstart" in ran.stdout
    where = [str(python), "-c", "import spin_trl; print(spin_trl.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path, env=surroundings(python), capture_output=True, encoding="utf-8", check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(tmp_path / "environment")


def environment(folder: Path) -> Path:
    """Make a virtual environment that sees all installed packages except this one, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):  # Python 3.11 comes with one that is too old to build with
        shutil.rmtree(old)
    installed = folder / "installed"
    installed.mkdir()
    for packages in (Path(path) for path in sys.path if Path(path).name == "site-packages"):
        for entry in packages.iterdir():
            link = installed / entry.name
            if not link.is_symlink() and not _NOT_SEEN.match(entry.name):
                link.symlink_to(entry)
    (site / "installed.pth").write_text(f"{installed}\n", encoding="utf-8")
    return folder / "bin" / "python"


def surroundings(python: Path) -> dict[str, str]:
    """Return the variables for a command: the environment's commands come first, and pip uses no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {
        **kept,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the option's value, so there is no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def build(stage: str, stages: dict[str, Path], top: Path, python: Path) -> None:
    """Run the instructions of a stage in a folder that stands for its file system.

    `stages` maps each stage that was built to the folder it ended in: its WORKDIR, below the stage's own folder.
    """
    root = workdir = top / "stages" / stage
    for item in (item for item in INSTRUCTIONS if item.stage == stage):
        if item.name == "FROM" and (other := item.value.split()[0]) in stages:
            shutil.copytree(top / "stages" / other, root)
            workdir = root / stages[other].relative_to(top / "stages" / other)
        elif item.name == "FROM":
            root.mkdir(parents=True)
        elif item.name == "WORKDIR":
            workdir = root / item.value.lstrip("/")
            workdir.mkdir(parents=True, exist_ok=True)
        elif item.name == "COPY":
            other, sources, target = copied(item.value)
            for source in sources:
                copy(top / "stages" / other / source.lstrip("/") if other else TOP / source, workdir / target)
        elif item.name == "RUN" and "apt-get" not in item.value:
            assert not _ABSOLUTE.search(item.value), (
                "A command that names a path of an image is not run on this machine."
            )
            done = subprocess.run(
                ["sh", "-c", item.value],
                cwd=workdir,
                env=surroundings(python),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=300,
            )
            assert done.returncode == 0, f"{shlex.quote(item.value)}\n{done.stdout}{done.stderr}"
        stages[stage] = workdir


def copy(source: Path, target: Path) -> None:
    """Copy like COPY: a file into a folder, or the content of a folder as a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
