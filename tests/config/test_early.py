"""Wrong names and choices are refused before TRL is imported, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from messages import names, refused
from shipped_settings import of_shipped_versions
from spin_trl.config import shipped
from spin_trl.config.early import ONLY_IN_PYTHON, refuse_early
from spin_trl.config.recipe import known_settings, read_settings
from spin_trl.config.reference.listed import every_setting
from spin_trl.errors import RecipeError

KNOWN = every_setting()
CHOICES = {setting.name: setting.choices for setting in KNOWN if setting.choices is not None}


def written(folder: Path, **settings: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"use_cpu": True, "bf16": False, **settings}), encoding="utf-8")
    return path


@of_shipped_versions
@pytest.mark.parametrize(
    ("settings", "overrides", "parts"),
    [
        ({"learnin_rate": 1}, [], ["'learnin_rate'", "'learning_rate'"]),
        ({}, ["--row", "3"], ["'--row'", "'--rows'"]),
        ({"optim": "adamw_trch"}, [], ["`optim`", "'adamw_trch'", "'adamw_torch'"]),
        ({}, ["--truncation_mode", "keep_last"], ["`truncation_mode`", "'keep_last'"]),
        (None, [], ["'nowhere'"]),
    ],
)
def test_a_command_refuses_without_torch(
    settings: dict[str, object] | None, overrides: list[str], parts: list[str], tmp_path: Path
) -> None:
    """Importing torch and TRL takes 10 seconds or more."""
    source = "nowhere" if settings is None else str(written(tmp_path, **settings))
    code = "import json, sys\nfrom spin_trl.cli import main\ncode = main(sys.argv[1:])\n"
    code += "print(json.dumps([code, sorted({'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules))]))"
    command = [sys.executable, "-c", code, "preview", source, *overrides]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert json.loads(done.stdout) == [2, []]
    assert names(done.stderr, *parts)


@pytest.mark.parametrize("name", sorted(shipped.recipes()))
def test_shipped_recipes_pass(name: str) -> None:
    refuse_early(shipped.recipes()[name], ["--use_cpu", "--no_disable_dropout", "--num-iterations=2"], KNOWN, [])


@of_shipped_versions
def test_every_setting_of_a_recipe_passes(tmp_path: Path) -> None:
    """Settings that can only be set in Python are refused later, with their own message."""
    assert {*ONLY_IN_PYTHON} <= known_settings()
    for name in sorted(known_settings() & {*ONLY_IN_PYTHON, *(setting.name for setting in KNOWN)}):
        refuse_early(written(tmp_path, **{name: None}), [], KNOWN, [])
        refuse_early(written(tmp_path), [f"--{name}"], KNOWN, [])


@of_shipped_versions
@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_choice_is_refused_as_it_is_when_a_recipe_is_read(name: str, tmp_path: Path) -> None:
    """An allowed one passes."""
    path = written(tmp_path, **{name: CHOICES[name][0]})
    refuse_early(path, [f"--{name}", CHOICES[name][-1]], KNOWN, [])
    in_file, on_line = {name: "no-such-choice"}, [f"--{name}", "no-such-choice"]
    for settings, overrides in ((in_file, []), ({}, on_line)):
        path = written(tmp_path, **settings)
        with refused(RecipeError, f"`{name}`", "'no-such-choice'"):
            refuse_early(path, overrides, KNOWN, [])
        if name != "loss_type":  # a run refuses it along with everything else that prevents it
            with refused(RecipeError, f"`{name}`", "'no-such-choice'"):
                read_settings(str(path), overrides)


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with refused(RecipeError, "mine.yaml", "`optim`", "`on_regression`"):
        refuse_early(written(tmp_path, optim="adamm", on_regression="stopp"), [], KNOWN, [])


def test_a_token_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with refused(RecipeError, "`hub_token`") as error:
        refuse_early(written(tmp_path, hub_token="hush-hush", learnin_rate=1), [], KNOWN, [])
    assert "hush-hush" not in str(error.value)


def test_settings_of_sft_are_left_to_sftconfig(tmp_path: Path) -> None:
    refuse_early(written(tmp_path, sft_learning_rate=1e-5, sft_nothing=1), ["--sft_packing", "true"], KNOWN, [])
