"""Generated code is scored by its row's assertions, behind the layers that this machine has."""

from typing import Any

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.limits import Limits
from spin_trl.evaluation.isolation.probe import Isolation, probe_layers
from spin_trl.evaluation.isolation.room import Played, Room
from spin_trl.evaluation.scorers.python_tests import NAMED_SCORES, PythonTests, code_of
from spin_trl.evaluation.scoring import Permission, columns_of, figures_of, layers_of, score_of, scorer_of

TESTS = ["assert double(1) == 2", "assert double('a') == 'aa'", "assert double([1]) == [1, 1]"]
PROMPT = f"Write a function that doubles. It should pass {TESTS[0]}"
RIGHT = "```python\ndef double(x):\n    return x + x\n```"


@pytest.fixture
def scorer() -> PythonTests:
    if probe_layers().lacks:
        pytest.skip(f"needs {'; '.join(probe_layers().lacks)}")
    return PythonTests(Room(probe_layers().layers, Limits(seconds=5, cpu_seconds=2)))


def scored(scorer: PythonTests, generated: str, tests: Any = TESTS, **columns: Any) -> Any:
    return score_of(scorer, PROMPT, "", generated, {"test_list": tests, **columns})


def test_right_code_holds_all(scorer: PythonTests) -> None:
    assert scored(scorer, RIGHT) == {"all": 1.0, "unseen": 1.0, "share": 1.0, "in_child": 0.0}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def double(x): return 2", {"all": 0, "unseen": 0, "share": 1 / 3}),
        ("def double(x): return x * 2 if x != 1 else 3", {"all": 0, "unseen": 1, "share": 2 / 3}),
        ("def double(x): return [x, x]", {"all": 0, "unseen": 0, "share": 0}),
        ("def triple(x): return x + x", {"all": 0, "unseen": 0, "share": 0}),
        ("def double(x) return x + x", {"all": 0, "unseen": 0, "share": 0}),
        ("I can't write code.", {"all": 0, "unseen": 0, "share": 0}),
        ("", {"all": 0, "unseen": 0, "share": 0}),
    ],
)
def test_the_assertions_that_hold_are_counted(scorer: PythonTests, code: str, found: dict[str, float]) -> None:
    assert scored(scorer, code) == {**found, "in_child": 0}


def test_an_object_that_equals_everything_is_equal_to_nothing(scorer: PythonTests) -> None:
    code = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
class EqualText(str):
    __eq__ = Equal.__eq__
def double(x):
    return EqualText("b") if x == "a" else Equal()
"""
    assert scored(scorer, code)["share"] == 0


def test_code_that_says_that_it_is_right_is_not_believed(scorer: PythonTests) -> None:
    """It writes to the results itself, and replaces the comparison."""
    code = """
import os, json
for descriptor in range(3, 64):
    for step in range(5):
        try:
            os.write(descriptor, (json.dumps({"step": step, "holds": True, "value": True}) + "\\n").encode())
        except OSError:
            pass
os._exit(0)
"""
    assert scored(scorer, code)["share"] == 0


def test_a_call_that_never_ends_leaves_the_others(scorer: PythonTests) -> None:
    code = "def double(x):\n    while x == [1]: pass\n    return x + x"
    assert scored(scorer, code) == {"all": 0, "unseen": 0, "share": 2 / 3, "in_child": 0}


def test_what_is_not_compared_here_is_counted_apart(scorer: PythonTests) -> None:
    found = scored(scorer, RIGHT, ["assert double(1) > 1", "assert double(2) == 4", "x = double(3)\nassert x < 0"])
    assert found == {"all": 0, "unseen": 0, "share": 2 / 3, "in_child": 2 / 3}


def test_setup_code_runs_after_the_code_and_imports_before_it(scorer: PythonTests) -> None:
    """As in MBPP, the set-up code builds trees of a class that the generated code defines, and lines end in CRLF."""
    code = "class Node:\r\n    def __init__(self, v): self.v = v\r\ndef value(n): return math.floor(n.v)\r\n"
    columns = {"test_setup_code": "root = Node(2.5)\r\nroot.left = Node(1)\r\n", "test_imports": ["import math"]}
    assert scored(scorer, code, ["assert value(root) == 2", "assert value(root.left) == 1"], **columns)["all"] == 1


def test_assertions_may_be_one_text(scorer: PythonTests) -> None:
    assert scored(scorer, RIGHT, "\r\n".join(TESTS)) == {"all": 1.0, "unseen": 1.0, "share": 1.0, "in_child": 0.0}
    assert "unseen" not in scored(scorer, RIGHT, TESTS[:1])


@pytest.mark.parametrize("tests", [None, [], "", "x = 1"], ids=str)
def test_a_row_without_assertions_has_no_score(tests: Any) -> None:
    assert scored(PythonTests(Room()), RIGHT, tests) == {}


@pytest.mark.parametrize("tests", ["assert f(", 3, [3], [TESTS]], ids=str)
def test_tests_that_are_no_python_are_refused(tests: Any) -> None:
    with refused(RecipeError, "`test_list`"):
        scored(PythonTests(Room()), RIGHT, tests)


def test_the_literals_are_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Any] = []
    monkeypatch.setattr(Room, "play", lambda self, task: tasks.append(task) or Played([], []))
    scored(PythonTests(Room()), RIGHT, ["assert f(1) == 'a literal'", "assert 'another' == f(2)"])
    assert "a literal" not in str(tasks)
    assert "another" not in str(tasks)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("Text\n```python\nx = 1\n```\nMore\n```python\ny = 2\n```", "x = 1\n"),
        ("```\nshell\n```\n~~~Python\nx = 1\n~~~", "x = 1\n"),
        ("```bash\npip\n```\n```\nx = 1\n```", "x = 1\n"),
        ("```py\r\nx = 1\r\ny = 2", "x = 1\ny = 2"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("```bash\npip\n```", "```bash\npip\n```"),
    ],
)
def test_the_code_of_a_response_is_found(response: str, code: str) -> None:
    assert code_of(response) == code


def test_it_is_off_unless_the_recipe_allows_it() -> None:
    with refused(RecipeError, "`scorer: python_tests`", "`allow_generated_code: true`"):
        scorer_of(["python_tests"])


def test_it_is_refused_where_code_can_not_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Isolation((), dict.fromkeys(tuple(Layer), "no-layer-here"))
    monkeypatch.setattr("spin_trl.evaluation.scoring.probe_layers", lambda: nothing)
    with refused(RecipeError, "no-layer-here", "`allow_unisolated_code: true`"):
        scorer_of(["python_tests"], Permission(True))
    assert layers_of(scorer_of(["python_tests"], Permission(True, True))) == []


def test_its_columns_and_figures_are_known_before_it_runs() -> None:
    found = columns_of(PythonTests(Room()))
    assert (found.required, found.optional) == ({"test_list"}, {"test_setup_code", "test_imports"})
    assert figures_of(["python_tests"]) == [f"score/{name}" for name in NAMED_SCORES]
    assert layers_of(PythonTests(Room(["landlock"]))) == ["landlock"]
