"""`spin-trl settings`, `schema` and the help of `run` show the settings a recipe may have, at once and within the
terminal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spin_trl
from messages import names
from shipped_settings import of_shipped_versions
from spin_trl.cli import main
from spin_trl.config.recipe import known_settings
from spin_trl.config.reference import described, listed
from spin_trl.config.reference.known import KnownSetting
from spin_trl.config.reference.listed import every_setting

NAMES = {setting.name for setting in every_setting()}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    try:
        ended = main(list(arguments))
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_all_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "settings").splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert listed == NAMES
    assert len(NAMES) > 200


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_lines_fit_the_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds from 60 columns upwards."""
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(map(len, printed(capsys, "settings").splitlines()))
    assert longest <= max(60, min(int(columns), 120))


def test_a_whole_name_shows_everything_about_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "settings", "learning_rate")
    assert shown.startswith("learning_rate\n")
    assert names(shown, "1e-06", "above 0", "list", "transformers", "lr", "baseline_learning_rate")
    shown = printed(capsys, "settings", "tspin_beta")
    assert names(shown, "tspin", "at least 0")
    assert "resumed run    must not change" in shown
    assert "resumed run    may change" in printed(capsys, "settings", "num_iterations")


def test_the_name_that_another_tool_has_shows_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "settings", "micro_batch_size").startswith("per_device_train_batch_size\n")


def test_a_word_shows_the_settings_that_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "settings", "degeneration")
    assert names(shown, "degeneration_warn", "degeneration_stop")
    assert "learning_rate" not in shown


def test_an_unknown_word_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "settings", "num_iteratoins", code=2)
    assert names(said, "num_iteratoins", "num_iterations")


def test_settings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(printed(capsys, "settings", "--json", "fall_back_lr_scale"))
    assert found["name"] == "fall_back_lr_scale"
    assert found["default"] == 1.0
    assert found["bounds"]["low_open"] is True
    assert {one["name"] for one in json.loads(printed(capsys, "settings", "--json"))} == NAMES


@of_shipped_versions
def test_the_schema_is_the_shipped_one(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(printed(capsys, "schema"))
    assert schema["properties"].keys() == NAMES
    top = Path(spin_trl.__file__).parents[1]
    assert schema == json.loads((top / "recipes" / "schema.json").read_text(encoding="utf-8"))


@of_shipped_versions
def test_the_help_of_run_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """It also says how to look up a setting, and explains those that most recipes need."""
    shown = printed(capsys, "run", "--help")
    assert names(shown, *NAMES, "spin-trl settings NAME", "--trust_run")
    assert known_settings() - NAMES == {"hub_token", "parallelism_config"}


def test_another_trl_is_said_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The import takes seconds, and stdout stays valid JSON."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(listed, "installed_versions", lambda: {"trl": "99.0.0", "transformers": "98.0.0"})
    one = KnownSetting("learning_rate", "Training", ("number",), help="The learning rate.")
    monkeypatch.setattr(described, "describe", lambda: [one])
    assert main(["settings", "--json"]) == 0
    found = capsys.readouterr()
    assert [setting["name"] for setting in json.loads(found.out)] == ["learning_rate"]
    assert "TRL" in found.err
    assert main(["settings"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", ["--version", "run --help", "settings"])
def test_a_reader_that_has_gone_is_no_traceback(arguments: str) -> None:
    """The test runs `spin-trl run --help | head -1` with an unbuffered Python."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "spin_trl", *arguments.split()],
            stdout=writer,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert "Traceback" not in done.stderr


def test_a_setting_of_sft_is_explained_by_its_namesake(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "settings", "sft_learning_rate")
    assert names(text, "sft_learning_rate", "`start: sft`", "0.01")
    assert printed(capsys, "settings", "sft_share").startswith("sft_share")
