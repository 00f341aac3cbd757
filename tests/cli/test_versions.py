"""`spin-trl --version` shows what is installed, whether or not it can be imported."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys

import pytest

import spin_trl
from spin_trl.cli import main, versions
from spin_trl.cli.versions import ShowVersions


def test_the_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert shown["spin_trl"] == spin_trl.__version__
    for library in ("trl", "transformers", "torch"):
        assert shown[library] == importlib.metadata.version(library)
    assert shown["python"].startswith("3.")


def test_nothing_is_imported_to_know_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it works when an import fails, which is when it is needed."""
    for library in ("trl", "transformers", "torch"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it raises
    assert versions.versions().splitlines() == [
        f"spin_trl {spin_trl.__version__}",
        *(f"{library} {importlib.metadata.version(library)}" for library in ("trl", "transformers", "torch")),
        f"python {platform.python_version()}",
    ]


def test_a_library_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "trl":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions.versions().splitlines()[1:-1] == ["trl not installed", "transformers 1.2.3", "torch 1.2.3"]


def test_asking_for_the_versions_ends_the_command_whatever_else_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("needed")
    parser.add_argument("--version", action=ShowVersions, nargs=0)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == versions.versions() + "\n"
