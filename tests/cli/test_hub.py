"""`spin-trl push` and `spin-trl card` pass on their options, print what they did, and refuse bad input before
contacting the Hub.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import made_up
from messages import names
from spin_trl.cli import main
from spin_trl.errors import HubError
from spin_trl.hub import cards, client, publish
from spin_trl.play import open as opening


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Fake run and Hub; `says` holds the lines that the push prints, or the error it raises."""
    found = SimpleNamespace(
        says=["iteration-0 is on a/b."],
        opened=[],
        run=SimpleNamespace(
            args=SimpleNamespace(hub_model_id=None, hub_private_repo=None),
            play=SimpleNamespace(push_generations=False, hub_dataset_id=None, hub_license=None),
            directory=SimpleNamespace(path=Path("runs/a")),
        ),
    )

    def reopen(source: str, overrides: list[str], *, trust_run: bool) -> Any:
        found.opened.append((source, overrides, trust_run))
        return found.run

    class Publisher:
        def __init__(self, run: Any, hub: Any, say: Any) -> None:
            self.say = say

        def push_missing(self) -> None:
            for one in found.says:
                if isinstance(one, HubError):
                    raise one
                self.say(one)

    monkeypatch.setattr(opening, "reopen", reopen)
    monkeypatch.setattr(publish, "Publisher", Publisher)
    monkeypatch.setattr(client, "Hub", lambda **options: SimpleNamespace(check_access=lambda: None))
    return found


def test_what_is_given_takes_the_place_of_the_runs_own_settings(pushed: SimpleNamespace, capsys: Any) -> None:
    """A machine without a GPU can push; options that are left out keep the run's values."""
    given = [
        "--hub_model_id",
        "a/b",
        "--hub_private_repo",
        "True",
        "--push_generations",
        "false",
        "--hub_license",
        "mit",
    ]
    assert main(["push", "runs/a", *given]) == 0
    assert pushed.opened == [("runs/a", ["--use_cpu", "true"], False)]
    assert vars(pushed.run.args) == {"hub_model_id": "a/b", "hub_private_repo": True}
    assert vars(pushed.run.play) == {"push_generations": False, "hub_dataset_id": None, "hub_license": "mit"}
    assert capsys.readouterr().out == "iteration-0 is on a/b.\n"


def test_where_nothing_is_missing_that_is_said(pushed: SimpleNamespace, capsys: Any) -> None:
    pushed.says = []
    assert main(["push", "runs/a", "--trust_run"]) == 0
    assert names(capsys.readouterr().out, "Everything", "runs/a")
    assert pushed.opened[0][2] is True


def test_a_push_that_fails_says_that_the_same_command_goes_on(pushed: SimpleNamespace, capsys: Any) -> None:
    pushed.says.append(HubError("Error 503."))
    assert main(["push", "runs/a"]) == 1
    found = capsys.readouterr()
    assert names(found.err, "Error 503.", "same command")
    assert names(found.out, "a/b")


def test_a_setting_of_a_recipe_is_none_of_a_push(pushed: SimpleNamespace, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", "runs/a", "--num_iterations", "3"])
    assert ended.value.code == 2
    assert names(capsys.readouterr().err, "spin-trl push", "--num_iterations 3")
    assert pushed.opened == []


@pytest.mark.parametrize("option", ["--hub_private_repo", "--push_generations"])
@pytest.mark.parametrize("value", ["maybe", "1", ""])
def test_what_is_neither_true_nor_false_is_refused(option: str, value: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", "runs/a", f"{option}={value}"])
    assert ended.value.code == 2
    assert names(capsys.readouterr().err, option, repr(value))


def test_the_paths_of_the_cards_are_printed(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.write_run(tmp_path / "run", made_up.record(made_up.stage("start", range(20))))
    monkeypatch.setattr(
        cards, "write_cards", lambda directory: [directory.path / "a/README.md", directory.path / "b/README.md"]
    )
    assert main(["card", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "run" / name / "README.md") for name in "ab"]
    monkeypatch.setattr(cards, "write_cards", lambda directory: [])
    assert main(["card", str(tmp_path / "run")]) == 0
    assert names(capsys.readouterr().out, tmp_path / "run", "no model")
