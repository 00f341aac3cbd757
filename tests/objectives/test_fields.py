"""A setting is declared once: TRL's parser reads its default, help and choices from that declaration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from trl import TrlParser

from messages import names
from spin_trl.objectives.fields import setting


@dataclass
class Settings:
    rate: float = setting(0.5, "How fast.")
    way: str = setting("up", "Which way.", choices=("up", "down"))


def test_the_parser_has_default_help_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    parser = TrlParser([Settings])
    assert parser.parse_args_into_dataclasses([]) == (Settings(0.5, "up"),)
    assert parser.parse_args_into_dataclasses(["--rate", "2", "--way", "down"]) == (Settings(2.0, "down"),)
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--way", "left"])
    assert names(capsys.readouterr().err, "--way", "'left'", "'up'", "'down'")
    assert {action.dest: action.help for action in parser._actions}["rate"] == "How fast."


def test_a_setting_without_choices_may_be_anything() -> None:
    rate, way = dataclasses.fields(Settings)
    assert "choices" not in rate.metadata
    assert way.metadata["choices"] == ["up", "down"]
