"""Tests check what a message names, such as its class, settings, files and numbers, but not its wording."""

import ast
import re
import warnings
from pathlib import Path

import pytest

from messages import names, refused, warned
from spin_trl.errors import DataError, RecipeError

TESTS = Path(__file__).parent
# These are TRL's own tests, by id: the messages are TRL's, and a drop-in must keep them.
OF_TRL = TESTS / "drop_in"


@pytest.mark.parametrize(
    ("message", "part", "named"),
    [
        ("`beta` is 3, not 2.", "beta", True),
        ("`tspin_beta` is 3.", "beta", False),
        ("`beta` is 3.", "`beta`", True),
        ("13 rows", 3, False),
        ("0.3 of them", 3, False),
        ("3.5 of them", 3, False),
        ("row 3.", 3, True),
        ("row -3", -3, True),
        ("in a/b.json: damaged", Path("a/b.json"), True),
        ("in a/b.json: damaged", "b.jso", False),
    ],
)
def test_a_part_is_named_as_a_whole(message: str, part: object, named: bool) -> None:
    assert names(message, part) is named


def test_an_error_of_another_class_or_about_another_setting_is_not_the_refusal() -> None:
    with refused(RecipeError, "`beta`", 3) as error:
        raise RecipeError("`beta` is 3")
    assert isinstance(error.value, RecipeError)
    with pytest.raises(AssertionError), refused(RecipeError, "`mu`"):
        raise RecipeError("`beta` is 3")
    with pytest.raises(DataError), refused(RecipeError, "`beta`"):
        raise DataError("`beta` is 3")


def test_a_warning_of_another_class_or_about_another_setting_is_not_the_warning() -> None:
    with warned(UserWarning, "`beta`"):
        warnings.warn("`beta` is 3", UserWarning, stacklevel=1)
    with pytest.raises(AssertionError), warned(UserWarning, "`mu`"):
        warnings.warn("`beta` is 3", UserWarning, stacklevel=1)


def prose_of(test: Path) -> list[str]:
    """Return the places where a test asks for wording: `match=`, and prose in parts of `refused`, `warned`, `logged`
    or `names`.
    """
    found = []
    for call in (node for node in ast.walk(ast.parse(test.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in {"raises", "warns"} and any(keyword.arg == "match" for keyword in call.keywords):
            found.append(f"{test.name}:{call.lineno}: `match=`")
        if name in {"refused", "warned", "logged", "names"}:
            texts = [node for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            found += [f"{test.name}:{text.lineno}: {text.value}" for text in texts if is_prose(str(text.value))]
    return found


def is_prose(text: str) -> bool:
    """Return whether a text holds three words of plain English in a row, outside backticks and quotes."""
    bare = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"", "|", text)
    return bool(re.search(r"(?<![\w.-])[A-Za-z]+,? [a-z]+,? [a-z]+(?![\w.-])", bare))


def test_prose_is_told_from_names() -> None:
    assert is_prose("does not start this iteration")
    assert not is_prose("`spin-trl run a b c`")
    assert not is_prose("spin-trl push RUN --branch x")


def test_no_check_of_an_error_or_a_warning_stands_without_its_block() -> None:
    """On its own it would check nothing; `logged` is for messages that were logged."""
    idle = [
        f"{test.name}:{node.lineno}"
        for test in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(test.read_text("utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") in {"refused", "warned"}
    ]
    assert not idle


def test_no_test_asks_for_the_words_of_a_message() -> None:
    tests = [path for path in TESTS.rglob("test_*.py") if OF_TRL not in path.parents and path != Path(__file__)]
    assert not [place for test in tests for place in prose_of(test)]
