"""A command is added with its function, and its options can't be abbreviated."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from spin_trl.cli.commands import add_command, add_trust


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
    """`--iter` does not stand for `--iteration`: a setting with that name would be lost."""
    options, rest = parser.parse_known_args(["first", *given])
    assert (options.iteration, options.trust_run, rest) == (None, False, given)


def test_help_ends_in_lines_as_they_stand(parser: argparse.ArgumentParser, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["first", "--help"])
    assert capsys.readouterr().out.endswith("Two\n  lines.\n")
