"""`module:function` finds the user's modules in the current folder, but never shadows an installed module."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from messages import names, refused
from spin_trl.data.functions import resolve_function
from spin_trl.data.load import load_rows
from spin_trl.errors import DataError, RecipeError
from spin_trl.evaluation.scoring import Scorer, score_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter and return an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_in_the_current_folder_is_found_and_the_path_stays_as_it_was(here: Path) -> None:
    """No file is written next to it."""
    (here / "scores_of_mine.py").write_text("def score(prompt, real, generated):\n    return 1.0\n", encoding="utf-8")
    before = list(sys.path)
    assert resolve_function("scores_of_mine:score")("", "", "") == 1.0
    assert sys.path == before
    assert [path.name for path in here.iterdir()] == ["scores_of_mine.py"]


def test_a_function_may_import_its_neighbours_when_it_is_called(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can even after the current folder has changed; `sys.path` is unchanged."""
    (here / "lazy_scores.py").write_text(
        "def score(*texts):\n    from lazy_neighbour import VALUE\n    return VALUE\n", encoding="utf-8"
    )
    (here / "lazy_neighbour.py").write_text("VALUE = 3.0\n", encoding="utf-8")
    before, function = list(sys.path), resolve_function("lazy_scores:score")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert score_of(function, "", "", "") == 3.0
    assert function.__name__ == "score"
    assert sys.path == before
    assert sorted(path.name for path in here.iterdir()) == ["lazy_neighbour.py", "lazy_scores.py"]


def test_what_is_installed_comes_first_and_the_message_says_so(here: Path) -> None:
    """A user's `json.py` does not replace Python's."""
    (here / "json.py").write_text("def score(): ...\n", encoding="utf-8")
    assert resolve_function("json:dumps") is json.dumps
    with refused(DataError, "'json:score'", "'score'", str(json.__file__), "json.py"):
        resolve_function("json:score")


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import sys; sys.exit(3)", ("SystemExit: 3", "mine_0.py, line 1")),
        ("1 / 0", ("ZeroDivisionError", "mine_1.py, line 1")),
        ("import no_such_module_at_all", ("ModuleNotFoundError", "'no_such_module_at_all'")),
        ("def", ("SyntaxError", "mine_3.py, line 1")),
        ("x = 1", ("'mine_4'", "'f'")),
        ("f = 1", ("'mine_5:f'", "int")),
    ],
)
def test_a_module_that_can_not_be_imported_is_named_with_the_reason(
    here: Path, code: str, named: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """This holds for any exception, including `SystemExit`."""
    number = request.node.callspec.indices["code"]
    (here / f"mine_{number}.py").write_text(f"{code}\n", encoding="utf-8")
    with refused(DataError, f"mine_{number}", *named):
        resolve_function(f"mine_{number}:f")


@pytest.mark.parametrize("name", ["mine.py:f", "./mine.py:f", "scorers/mine.py:f", "mine", "mine:", ":f", "a b:f"])
def test_a_name_of_another_form_is_refused(here: Path, name: str) -> None:
    """A file name, for example, is refused."""
    with refused(DataError, repr(name), "`module:function`"):
        resolve_function(name)


def test_a_function_of_the_users_that_fails_is_named_with_its_line(here: Path) -> None:
    """This holds for data and scorers; the user needs no traceback to find the line."""
    (here / "failing_functions.py").write_text("def f(*texts):\n    return [][1]\n", encoding="utf-8")
    where = ("IndexError: list index out of range", f"{here / 'failing_functions.py'}, line 2")
    with refused(DataError, "'failing_functions:f'", *where):
        load_rows("failing_functions:f")
    with refused(RecipeError, "scorer", *where):
        score_of(resolve_function("failing_functions:f"), "", "", "")
    for wrong in (None, "a", [1.0]):
        assert math.isnan(score_of(lambda p, r, g, wrong=wrong: wrong, "", "", ""))  # type: ignore[misc, arg-type]


@pytest.mark.slow
def test_python_m_does_not_take_libraries_from_the_current_folder(here: Path) -> None:
    """`python -m` puts that folder first on the path."""
    for name in ("types", "json", "random", "numpy", "datasets", "argparse"):
        (here / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n", encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-m", "spin_trl", "run", "nothing"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=here,
    )
    assert found.returncode == 2, found.stderr
    assert names(found.stderr, "recipe", "'nothing'")


ODD_CODE = ["raise SystemExit(3)", "raise type('Odd', (Exception,), {'__str__': None})()", "1 / 0"]


@pytest.mark.parametrize("code", ODD_CODE)
def test_whatever_a_function_of_the_users_raises_is_said(here: Path, code: str) -> None:
    """A script that exits the process does not end the command silently."""
    module = f"odd_{ODD_CODE.index(code)}"
    (here / f"{module}.py").write_text(f"def f(*given):\n    {code}\n", encoding="utf-8")
    with refused(DataError, f"'{module}:f'", "'train'", f"{module}.py", "line 2"):
        load_rows(f"{module}:f")
    with refused(RecipeError, f"{module}.py", "line 2"):
        score_of(resolve_function(f"{module}:f"), "a", "b", "c")


@pytest.mark.parametrize("signature", ["", "split, config", "*, split"])
def test_a_function_with_another_signature_is_named(here: Path, signature: str) -> None:
    module = f"signed_{len(signature)}"
    (here / f"{module}.py").write_text(f"def f({signature}):\n    return []\n", encoding="utf-8")
    with refused(DataError, f"'{module}:f'", "'train'", "TypeError"):
        load_rows(f"{module}:f")


class _Unshown:
    def __repr__(self) -> str:
        raise ValueError

    def __float__(self) -> float:
        raise KeyError


@pytest.mark.parametrize("found", [{"\ud800": 1.0}, 10**400, _Unshown(), {"a": _Unshown()}], ids=range(4))
def test_what_is_no_score_is_refused(found: object) -> None:
    """Only a name that can't be written in UTF-8 is refused. A value that is not a number becomes NaN, and is counted."""
    scorer = cast(Scorer, lambda *_: found)
    if isinstance(found, dict) and "\ud800" in found:
        with refused(RecipeError, "'a prompt'", "UTF-8"):
            score_of(scorer, "a prompt", "b", "c")
    else:
        score = score_of(scorer, "a prompt", "b", "c")
        assert all(map(math.isnan, score.values() if isinstance(score, dict) else [score]))
