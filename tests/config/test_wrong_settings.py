"""A wrong name or choice of a setting is answered with the nearest valid one."""

from pathlib import Path

import pytest

from messages import refused
from spin_trl.config.recipe import read_settings
from spin_trl.config.wrong_settings import (
    as_called_here,
    of_enum,
    other_choice,
    refuse_unknown_options,
    refuse_unknown_settings,
)
from spin_trl.errors import RecipeError

KNOWN = ["learning_rate", "dataset_name"]


def test_all_unknown_settings_are_named() -> None:
    with refused(RecipeError, "mine.yaml", "'learnin_rate'", "'learning_rate'", "'zzzz'."):
        refuse_unknown_settings(Path("mine.yaml"), ["learnin_rate", "dataset_name", "zzzz"], KNOWN)


def test_a_commands_own_option_may_have_been_meant() -> None:
    with refused(RecipeError, "'--row'", "'--rows'"):
        refuse_unknown_options(["--row", "3"], KNOWN, KNOWN, ["rows", "full"])


def test_only_spellings_of_a_setting_are_options_and_only_its_name_is_suggested() -> None:
    spellings = [*KNOWN, "learning-rate"]
    refuse_unknown_options(["--learning-rate", "1", "--dataset_name=x"], spellings, KNOWN)
    with refused(RecipeError, "'--learning-rat'", "'--learning_rate'"):
        refuse_unknown_options(["--learning-rat", "1"], spellings, KNOWN)


def test_names_of_other_tools_are_translated_with_a_warning() -> None:
    known = ["dtype", "max_length"]
    settings, arguments, warnings = as_called_here(
        Path("a.yaml"), {"torch_dtype": "auto"}, ["--max_length", "3"], known
    )
    assert (settings, arguments) == ({"dtype": "auto"}, ["--max_length", "3"])
    assert len(warnings) == 1
    assert "a.yaml" in warnings[0]


def test_a_wrong_choice_names_the_nearest() -> None:
    assert "'adamw_torch'" in other_choice("optim", "adamw_trch", ["sgd", "adamw_torch"])
    message = of_enum("adamw_trch is not a valid OptimizerNames, please select one of ['sgd', 'adamw_torch']")
    assert message == other_choice("optim", "adamw_trch", ["sgd", "adamw_torch"])
    assert of_enum("anything else") is None


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("optim", "adamw_trch", "adamw_torch"),
        ("lr_scheduler_type", "cosin", "cosine"),
        ("save_strategy", "stps", "steps"),
        ("on_regression", "falback", "fall_back"),
    ],
)
@pytest.mark.parametrize("on_line", [True, False])
def test_every_librarys_choices_are_refused_like_our_own(
    name: str, value: str, right: str, on_line: bool, tmp_path: Path
) -> None:
    """This holds on the command line and in the file, although libraries either list all choices or check none."""
    path = tmp_path / "mine.yaml"
    path.write_text("use_cpu: true\n" + ("" if on_line else f"{name}: {value}\n"), encoding="utf-8")
    with refused(RecipeError, name, f"'{value}'", f"'{right}'"):
        read_settings(str(path), [f"--{name}", value] if on_line else [])
