"""The version is the same everywhere, and the commands of RELEASE.md work."""

from __future__ import annotations

import datetime
import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import spin_trl
from messages import refused
from project.repository import (
    TOP,
    copy_of_the_tree,
    missing_scripts,
    missing_targets,
    of_schema,
    settings,
    text_of,
    tracked,
    yaml_of,
)

FILES = ("CHANGELOG.md", "CITATION.cff", "setup.cfg", "spin_trl/__init__.py")
DAY = datetime.date(2030, 1, 2)


def script() -> ModuleType:
    """Load `.ci/release.py`, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("release", TOP / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RELEASE = script()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy the files that name a version. There is an unreleased change, even right after a release."""
    copy_of_the_tree(tmp_path, *FILES)
    changelog = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    changelog = changelog.replace(f"{RELEASE.UNRELEASED}\n", f"{RELEASE.UNRELEASED}\n\n### Added\n\n- Something.\n")
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    return tmp_path


def test_the_version_is_the_same_everywhere() -> None:
    assert RELEASE.check(TOP, spin_trl.__version__) == []
    assert len(RELEASE.check(TOP, "99.0.0")) == 3
    assert RELEASE.notes(text_of("CHANGELOG.md"), spin_trl.__version__)


def test_a_version_is_named_in_one_step(tree: Path) -> None:
    """Unreleased entries move to the version, and an empty section for the next one is added."""
    before = RELEASE.notes((tree / "CHANGELOG.md").read_text(encoding="utf-8"), "Unreleased")
    base = settings()["metadata"]["url"]
    RELEASE.set_version(tree, "97.1.0", DAY)
    assert RELEASE.check(tree, "97.1.0") == []
    changelog = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    assert RELEASE.notes(changelog, "97.1.0") == before
    assert RELEASE.notes(changelog, "Unreleased") == ""
    assert "## [97.1.0] - 2030-01-02\n" in changelog
    assert f"[Unreleased]: {base}/compare/v97.1.0...HEAD\n" in changelog
    assert f"[97.1.0]: {base}/compare/v{spin_trl.__version__}...v97.1.0\n" in changelog
    assert "date-released: 2030-01-02\n" in (tree / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", "one"])
def test_what_is_no_version_is_refused(version: str, tree: Path) -> None:
    with refused(SystemExit, repr(version)):
        RELEASE.set_version(tree, version, DAY)
    assert RELEASE.check(tree, spin_trl.__version__) == []


def test_a_version_is_not_released_twice_and_not_without_notes(tree: Path) -> None:
    with refused(SystemExit, spin_trl.__version__):
        RELEASE.set_version(tree, spin_trl.__version__, DAY)
    RELEASE.set_version(tree, "97.1.0", DAY)
    with refused(SystemExit, RELEASE.UNRELEASED):
        RELEASE.set_version(tree, "97.2.0", DAY)
    assert RELEASE.check(tree, "97.1.0") == []


def test_the_account_is_set_everywhere_by_one_command(tmp_path: Path) -> None:
    """It can be run again when the repository moves. The tests of documents read the account from setup.cfg."""
    now = RELEASE.current_owner(text_of("setup.cfg"))
    address = re.compile(rf"\b{now}(/|\.github\.io/)spin_trl\b".encode())
    named = [name for name in tracked() if address.search((TOP / name).read_bytes())]
    assert {"setup.cfg", "CITATION.cff", "CHANGELOG.md", ".github/ISSUE_TEMPLATE/config.yml"} <= set(named)
    copy_of_the_tree(tmp_path, *named)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for owner in ("someone-else", "Another1"):
        assert sorted(RELEASE.set_owner(tmp_path, owner)) == sorted(named)
        assert not any(address.search((tmp_path / name).read_bytes()) for name in named)
        assert RELEASE.current_owner((tmp_path / "setup.cfg").read_text(encoding="utf-8")) == owner
    assert f"https://{owner}.github.io/spin_trl" in (tmp_path / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("owner", ["", "two words", "a/b", "-a", "a--b"])
def test_what_is_no_account_is_refused(owner: str, tmp_path: Path) -> None:
    with refused(SystemExit, repr(owner)):
        RELEASE.set_owner(tmp_path, owner)


def test_the_commands_of_release_md_are_there() -> None:
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", text_of("RELEASE.md"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    assert len(lines) > 10
    assert missing_targets(lines) == []
    assert missing_scripts(lines) == []
    ours = [line.split()[2] for line in lines if line.startswith("python3 .ci/release.py")]
    assert ours == ["owner", "version", "check"]
    known = {"python3", ".ci/run", "make", "git", "pip", "spin-trl"}
    assert {line.split()[0] for line in lines} <= known


def test_the_changelog_keeps_its_form() -> None:
    """The form is that of https://keepachangelog.com: newest first, a date for each version, and a link for each heading."""
    text = text_of("CHANGELOG.md")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    dates = [heading[-10:] for heading in headings[1:]]
    assert dates == sorted(dates, reverse=True)
    names = [heading.partition("]")[0].removeprefix("[") for heading in headings]
    links = dict(re.findall(r"^\[(\S+)\]: (\S+)$", text, re.MULTILINE))
    assert list(links) == names
    assert all(link.startswith(settings()["metadata"]["url"]) for link in links.values())
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_valid_and_agrees_with_setup_cfg() -> None:
    assert of_schema("citation-file-format", "CITATION.cff") == ""
    citation, metadata = yaml_of("CITATION.cff"), settings()["metadata"]
    assert citation["repository-code"] == metadata["url"]
    assert citation["license"] == metadata["license"]
    assert citation["version"] == spin_trl.__version__
    assert citation["date-released"].isoformat() in text_of("CHANGELOG.md")


def test_the_package_has_its_addresses() -> None:
    """They have one base, which RELEASE.md's command replaces."""
    metadata = settings()["metadata"]
    account = RELEASE.current_owner(text_of("setup.cfg"))
    links = dict(line.split(" = ") for line in metadata["project_urls"].strip().splitlines())
    assert set(links) == {"Documentation", "Source", "Issues", "Changelog"}
    bases = (metadata["url"], f"https://{account}.github.io/spin_trl")
    assert all(link.startswith(bases) for link in links.values())
