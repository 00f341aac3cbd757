"""`spin-trl compare` passes its options on to the comparison, and refuses invalid JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from messages import names
from spin_trl.cli import main
from spin_trl.play.comparison import compare


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the arguments of the comparison, and whether it was played."""
    found: list[Any] = []

    class Comparison:
        folder = Path("runs/a")

        def __init__(self, *arguments: Any) -> None:
            found.append(arguments)

        def run(self) -> None:
            found.append("played")

    monkeypatch.setattr(compare, "Comparison", Comparison)
    Path("my.yaml").write_text("num_iterations: 1\n", encoding="utf-8")
    return found


def test_one_seed_and_one_device_are_what_is_left_out(asked: list[Any]) -> None:
    assert main(["compare", "my.yaml", "--arms", "space", "sft"]) == 0
    assert asked == [("my.yaml", [], ["space", "sft"], 1, 1, None, False), "played"]


def test_options_and_settings_reach_the_comparison(asked: list[Any]) -> None:
    given = ["--seeds", "3", "--devices", "2", "--trust_run", "--arm_settings", '{"space": {"learning_rate": 1e-6}}']
    assert main(["compare", "my.yaml", "--beta", "0.2", "--arms", "space", *given, "--num_iterations=2"]) == 0
    own = {"space": {"learning_rate": 1e-6}}
    assert asked[0] == ("my.yaml", ["--beta", "0.2", "--num_iterations=2"], ["space"], 3, 2, own, True)


def test_what_arms_have_in_common_is_a_setting_of_their_runs(asked: list[Any]) -> None:
    assert main(["compare", "my.yaml", "--arms", "space", "sft", "--equal", "compute"]) == 0
    assert asked[0][1] == ["--baseline_equal", "compute"]


@pytest.mark.parametrize("text", ["{", "[1]", "space"])
def test_settings_of_arms_are_a_mapping(text: str, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "my.yaml", "--arms", "space", "--arm_settings", text]) == 2
    assert names(capsys.readouterr().err, "`--arm_settings`", "mapping")
    assert asked == []


@pytest.mark.parametrize(("given", "part"), [([], "--arms"), (["--arms", "space", "--seeds", "x"], "--seeds")])
def test_what_argparse_refuses_ends_with_2(given: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "my.yaml", *given])
    assert ended.value.code == 2
    assert names(capsys.readouterr().err, part)
