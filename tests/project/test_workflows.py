"""Workflows run existing commands, on the Python versions of setup.cfg, with as few permissions as they need."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from project.repository import TOP, missing_scripts, missing_targets, of_schema, pythons, settings, text_of, yaml_of

WORKFLOWS = sorted(path.relative_to(TOP).as_posix() for path in TOP.glob(".github/workflows/*.yml"))


def jobs() -> dict[str, dict[str, Any]]:
    """Return every job, by `file: name`."""
    return {f"{file}: {name}": job for file in WORKFLOWS for name, job in yaml_of(file)["jobs"].items()}


def rows_of(matrix: dict[str, Any]) -> list[dict[str, str]]:
    """Return the values that a job runs with, one dict for each of its runs."""
    plain = {name: values for name, values in matrix.items() if name != "include"}
    rows = [dict(zip(plain, values, strict=True)) for values in itertools.product(*plain.values())] if plain else []
    return [*rows, *matrix.get("include", [])]


def filled(text: str, row: dict[str, str]) -> str:
    """Return a text with the values of one run filled in."""
    return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda found: row[found[1]], text)


def commands() -> list[str]:
    """Return every command of every run of every job."""
    return [
        filled(step["run"], row)
        for job in jobs().values()
        for row in rows_of(job.get("strategy", {}).get("matrix", {})) or [{}]
        for step in job["steps"]
        if "run" in step
    ]


def test_there_are_workflows() -> None:
    assert [Path(file).stem for file in WORKFLOWS] == ["docs", "release", "tests", "weekly"]


def test_workflows_are_valid() -> None:
    """They are checked against GitHub's own schema."""
    assert of_schema("github-workflows", *WORKFLOWS) == ""
    assert of_schema("dependabot", ".github/dependabot.yml") == ""


def test_no_workflow_is_open_to_others() -> None:
    """zizmor finds openings for attackers: templates in commands, persisted tokens, actions that may change."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-progress", "--color=never", ".github"],
        cwd=TOP,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_commands_name_what_is_there() -> None:
    assert len(commands()) > 10
    assert missing_targets(commands()) == []
    assert missing_scripts(commands()) == []


def test_what_is_not_there_is_found() -> None:
    assert missing_targets(["make test nothing PYTHON=python3.12 && make lint", "cmake x"]) == ["nothing"]
    assert missing_scripts(["bash .ci/nothing", ".ci/run", ".ci/release.py", "python .ci/release.py x"]) == [
        ".ci/nothing",
        ".ci/release.py",
    ]
    assert rows_of({"a": ["1", "2"], "b": ["x"]}) == [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}]
    assert filled("make test-${{ matrix.versions }}", {"versions": "lowest"}) == "make test-lowest"


def test_tests_run_on_every_supported_python() -> None:
    """The oldest is the one that setup.cfg, ruff and mypy have."""
    assert yaml_of(".github/workflows/tests.yml")["jobs"]["fast"]["strategy"]["matrix"]["python"] == pythons()
    tools = tomllib.loads(text_of("pyproject.toml"))["tool"]
    oldest = pythons()[0]
    assert settings()["options"]["python_requires"] == f">={oldest}"
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_every_python_of_a_workflow_is_supported() -> None:
    asked = {
        filled(str(step["with"]["python-version"]), row)
        for job in jobs().values()
        for row in rows_of(job.get("strategy", {}).get("matrix", {})) or [{}]
        for step in job["steps"]
        if "setup-python" in step.get("uses", "")
    }
    assert asked == set(pythons())


def test_lowest_and_newest_versions_are_tested() -> None:
    """The lowest versions are tested with the oldest Python, the newest with the newest."""
    rows = rows_of(yaml_of(".github/workflows/tests.yml")["jobs"]["versions"]["strategy"]["matrix"])
    assert rows == [{"versions": "lowest", "python": pythons()[0]}, {"versions": "newest", "python": pythons()[-1]}]
    script = text_of(".ci/versions")
    assert "lowest-direct" in script
    assert "huggingface/trl@main" in script
    for name in re.search(r"^\ttests=\((.*)\)$", script, re.MULTILINE)[1].split():
        assert (TOP / name).exists()
    assert list(yaml_of(".github/workflows/weekly.yml")["on"]["schedule"][0]) == ["cron"]


def test_known_vulnerabilities_are_asked_for_every_week() -> None:
    weekly = yaml_of(".github/workflows/weekly.yml")["jobs"]
    assert "make audit" in [step.get("run") for step in weekly["audit"]["steps"]]


@pytest.mark.parametrize("name", sorted(jobs()))
def test_a_job_has_the_rights_that_it_needs(name: str) -> None:
    """By default a workflow may only read; a job that deploys or publishes declares its permissions, and runs nothing
    of the repository.
    """
    file = name.partition(":")[0]
    job, whole = jobs()[name], yaml_of(file)["permissions"]
    assert whole in ({}, {"contents": "read"})
    rights = {right: how for right, how in (job.get("permissions") or whole).items() if how == "write"}
    expected: dict[str, dict[str, str]] = {
        ".github/workflows/docs.yml: deploy": {"pages": "write", "id-token": "write"},
        ".github/workflows/release.yml: publish": {"id-token": "write"},
        ".github/workflows/release.yml: announce": {"contents": "write"},
    }
    assert rights == expected.get(name, {})
    if rights:
        assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    assert "timeout-minutes" in job


@pytest.mark.parametrize("file", WORKFLOWS)
def test_actions_are_pinned(file: str) -> None:
    """GitHub's own actions are pinned by version, others by commit, with the version in a comment. No secret is used."""
    used = re.findall(r"uses: ([^\s@]+)@(\S+)(?: +# (v[\d.]+))?", text_of(file))
    assert len(used) == text_of(file).count("uses:")
    for action, pin, version in used:
        owner = action.partition("/")[0]
        assert re.fullmatch(r"v\d+" if owner == "actions" else r"[0-9a-f]{40}", pin), action
        assert owner == "actions" or version
    assert "secrets." not in text_of(file)


def test_a_release_is_published_from_a_tag_by_trust_alone() -> None:
    """PyPI is told this file's name and the environment; RELEASE.md names both."""
    workflow = yaml_of(".github/workflows/release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    publish = workflow["jobs"]["publish"]
    assert publish["environment"]["name"] == "pypi"
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in publish["steps"][-1]
    assert all(said in text_of("RELEASE.md") for said in ("`release.yml`", "environment `pypi`"))


def test_the_site_is_deployed_from_where_it_is_built() -> None:
    steps = yaml_of(".github/workflows/docs.yml")["jobs"]["build"]["steps"]
    uploaded = next(step["with"]["path"] for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    site = TOP / "zensical.toml"
    settings_of_site = tomllib.loads(site.read_text(encoding="utf-8")) if site.is_file() else {}
    assert uploaded == settings_of_site.get("project", {}).get("site_dir", "site")
