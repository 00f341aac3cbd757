"""A command is added with its function, and its options can't be abbreviated."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from messages import names
from spin_trl.cli.command_line import command_parser
from spin_trl.cli.commands import SETTINGS, add_command, add_trust
from spin_trl.config.arguments import options_of
from spin_trl.config.recipe import read_settings

VALUES = {"num_iterations": 1, "loss_type": 2, "learning_rate": 1, "column_mapping": 1}
"""The number of values in the help's examples."""


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="spin-trl")
    commands = found.add_subparsers()

    def act(options: argparse.Namespace, overrides: list[str]) -> None:
        """Do nothing."""

    first = add_command(commands, "first", act, help="what it does", epilog="Two\n  lines.\n")
    first.add_argument("--iteration", type=int)
    add_trust(first)
    add_command(commands, "second", act, takes_settings=False)
    return found


def test_a_command_knows_its_function_and_whether_it_takes_settings(parser: argparse.ArgumentParser) -> None:
    first, second = (parser.parse_args([name]) for name in ("first", "second"))
    assert first.function.__name__ == "act"
    assert (first.takes_settings, second.takes_settings) == (True, False)
    assert (first.trust_run, parser.parse_args(["first", "--trust_run"]).trust_run) == (False, True)


@pytest.mark.parametrize("given", [["--iter", "3"], ["--trust"], ["--iteration_seed", "3"]])
def test_what_only_begins_like_an_option_is_a_setting(given: list[str], parser: argparse.ArgumentParser) -> None:
    """`--iter` is not taken for `--iteration`; otherwise, a setting with that name would be lost."""
    options, rest = parser.parse_known_args(["first", *given])
    assert (options.iteration, options.trust_run, rest) == (None, False, given)


def test_help_ends_in_lines_as_they_stand(parser: argparse.ArgumentParser, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["first", "--help"])
    assert capsys.readouterr().out.endswith("Two\n  lines.\n")


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize(("name", "takes"), [("run", True), ("compare", True), ("report", False), ("push", False)])
def test_usage_and_help_tell_how_settings_are_given(
    name: str, takes: bool, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This applies to the commands that take settings; the usage is also printed after a mistake."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments, stream in (([name, "--help"], "out"), ([name], "err")):
        with pytest.raises(SystemExit):
            command_parser().parse_args(arguments)
        shown = getattr(capsys.readouterr(), stream)
        usage = shown.partition("\n\n")[0] if stream == "out" else shown
        assert names(usage, "[--SETTING VALUE ...]") is takes
        assert (SETTINGS in shown) is (takes and stream == "out")
        assert all(len(line) <= columns for line in usage.splitlines() if "error" not in line)


def test_settings_can_be_given_as_the_help_tells(tmp_path: Path) -> None:
    """These are a list, a value for each iteration, and a mapping; without a shell, quotes are not part of the value."""
    examples = [option for option in options_of(shlex.split(SETTINGS.replace("`", ""))) if option.name in VALUES]
    given = [text.rstrip(".:") for option in examples for text in option.arguments[: 1 + VALUES[option.name]]]
    (tmp_path / "mine.yaml").write_text("use_cpu: true\nbf16: false\n", encoding="utf-8")
    found = read_settings(str(tmp_path / "mine.yaml"), given)
    assert found.play.num_iterations == 2
    assert found.args.loss_type == ["sigmoid", "space"]
    assert found.play.per_iteration == {"learning_rate": [1e-3, 5e-4]}
    assert found.data.column_mapping == {"question": "prompt"}
