"""`make audit`: it asks for the vulnerabilities of the tested versions, and says so where they can't be asked for.

The programs that it calls are replaced by stand-ins, so no network is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from messages import names
from project.repository import TOP

SOURCE = '{"vulnerabilities": []}'
"""The part of the answer of PyPI's own index that mirrors leave out."""


def program(path: Path, *lines: str) -> None:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout with two pinned versions, and stand-ins for `curl`, `pip` and `pip-audit` that note how they are called."""
    shutil.copytree(TOP / ".ci", tmp_path / "checkout" / ".ci")
    pins = "# tested versions\ntorch==2.9.0\ntransformers==4.57.1\n"
    (tmp_path / "checkout" / "constraints.txt").write_text(pins, encoding="utf-8")
    programs = tmp_path / "programs"
    source(programs, SOURCE)
    program(programs / "pip", 'echo "pip $*" >>"$CALLS"', "exit ${PIP_CODE:-0}")
    program(programs / "pip-audit", 'echo "pip-audit $*" >>"$CALLS"; cat constraints.txt', "exit ${AUDIT_CODE:-0}")
    # `python3 -m venv FOLDER` makes an environment with the two.
    program(programs / "python3", 'mkdir -p "$3/bin" && cp "$(dirname "$0")/pip" "$(dirname "$0")/pip-audit" "$3/bin"')
    return tmp_path


def source(programs: Path, answer: str, code: int = 0) -> None:
    """Let the source of advisories answer this, or fail with an exit code of `curl`."""
    # Long, and an error if nobody reads to its end, as for `curl`.
    rest = "yes '{}' | head -c 1000000 || exit 23"
    program(programs / "curl", 'echo "curl $*" >>"$CALLS"', f"echo '{answer}'", rest, f"exit {code}")


def audit(machine: Path, **variables: str) -> tuple[int, str, list[str]]:
    """The exit code of the audit, its output, and the calls of the stand-ins, in order."""
    calls, left = machine / "calls", machine / "temporary files"
    calls.unlink(missing_ok=True)
    left.mkdir(exist_ok=True)
    path = f"{machine / 'programs'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CALLS": str(calls), "TMPDIR": str(left), **variables}
    script = machine / "checkout" / ".ci" / "audit"
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert not list(left.iterdir())
    return done.returncode, done.stdout + done.stderr, calls.read_text(encoding="utf-8").splitlines()


def test_the_tested_versions_are_asked_about_where_the_source_can_be_reached(machine: Path) -> None:
    code, said, calls = audit(machine)
    assert code == 0
    assert names(said, "torch==2.9.0", "transformers==4.57.1")
    asked, installed, audited = calls
    assert names(asked, "https://pypi.org/pypi/transformers/4.57.1/json")
    assert installed == "pip install --quiet pip-audit"
    assert names(audited, "--requirement constraints.txt", "--no-deps", "--disable-pip")


def test_a_known_vulnerability_fails_the_audit(machine: Path) -> None:
    code, _, calls = audit(machine, AUDIT_CODE="1")
    assert (code, len(calls)) == (1, 3)


@pytest.mark.parametrize(("answer", "curl"), [("", 6), ('{"info": {}}', 0)], ids=["no network", "a mirror"])
def test_without_advisories_nothing_is_installed_and_the_reason_is_given(
    answer: str, curl: int, machine: Path
) -> None:
    source(machine / "programs", answer, curl)
    code, said, calls = audit(machine)
    assert (code, len(calls)) == (0, 1)
    assert names(said, "PyPI")


@pytest.mark.parametrize(("variable", "value"), [("PIP_CODE", "1"), ("AUDIT_CODE", "124")])
def test_an_audit_that_can_not_be_made_is_skipped(variable: str, value: str, machine: Path) -> None:
    """Its tool can't be installed, or the source takes too long (`timeout` exits with 124)."""
    code, said, calls = audit(machine, **{variable: value})
    assert (code, len(calls)) == (0, 2 if variable == "PIP_CODE" else 3)
    assert said.splitlines()[-1].count(":") == 1
