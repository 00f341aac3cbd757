"""A command line is parsed in one way, whatever part of the code looks for a setting in it."""

import pytest

from spin_trl.config.arguments import is_overridden, options_of, without_options

LINE = ["recipe.yaml", "--beta", "0.1", "--lora_target_modules", "q_proj", "v_proj", "--run_dir=a=b", "--smoke"]


def test_an_option_has_the_values_up_to_the_next_one() -> None:
    """A value may also follow an equals sign; the first one separates name and value."""
    found = [(option.name, option.values) for option in options_of(LINE)]
    assert found == [
        ("", ["recipe.yaml"]),
        ("beta", ["0.1"]),
        ("lora_target_modules", ["q_proj", "v_proj"]),
        ("run_dir", ["a=b"]),
        ("smoke", []),
    ]


def test_no_argument_is_lost_or_changed() -> None:
    assert [argument for option in options_of(LINE) for argument in option.arguments] == LINE
    assert [option.name for option in options_of([])] == [""]


def test_a_negative_number_is_a_value() -> None:
    assert [option.values for option in options_of(["--top_k", "-1", "-x"])] == [[], ["-1", "-x"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("beta", True), ("run_dir", True), ("smoke", True), ("bet", False), ("q_proj", False), ("a", False)],
)
def test_a_setting_is_overridden_by_its_whole_name(name: str, expected: bool) -> None:
    assert is_overridden(name, LINE) is expected


def test_options_are_taken_out_with_their_values() -> None:
    kept = without_options(LINE, ["lora_target_modules", "run_dir", "unknown"])
    assert kept == ["recipe.yaml", "--beta", "0.1", "--smoke"]
    assert without_options(["--beta", "1", "--beta=2", "--bet", "3"], {"beta"}) == ["--bet", "3"]
