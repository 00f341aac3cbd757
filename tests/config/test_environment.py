"""A recipe sets environment variables, within limits."""

from pathlib import Path
from typing import Any

import pytest

from messages import refused
from spin_trl.config.environment import environment_of
from spin_trl.errors import RecipeError

RECIPE = Path("mine.yaml")


def test_values_become_text() -> None:
    assert environment_of(RECIPE, {"A": 1, "B": "x"}) == {"A": "1", "B": "x"}
    assert environment_of(RECIPE, None) == {}


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (["MY_SETTING=hush"], ("list", "mapping")),
        ({"MY_SETTING": ["hush"]}, ("'MY_SETTING'", "list")),
        ({"MY=SETTING": "hush"}, ("'MY=SETTING'",)),
        ({"RANK": "hush"}, ("RANK", "`accelerate launch`")),
    ],
)
def test_wrong_values_are_refused_without_repeating_them(value: Any, parts: tuple[str, ...]) -> None:
    """They may contain a token."""
    with refused(RecipeError, "mine.yaml", "`env`", *parts) as error:
        environment_of(RECIPE, value)
    assert "hush" not in str(error.value)


def test_a_run_directory_may_only_set_harmless_variables() -> None:
    """It may come from someone else."""
    assert environment_of(RECIPE, {"OMP_NUM_THREADS": 1}, is_foreign=True) == {"OMP_NUM_THREADS": "1"}
    with refused(RecipeError, "mine.yaml", "`env`", "LD_PRELOAD", "OMP_NUM_THREADS"):
        environment_of(RECIPE, {"OMP_NUM_THREADS": 1, "LD_PRELOAD": "x.so"}, is_foreign=True)
