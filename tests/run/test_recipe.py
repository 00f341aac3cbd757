"""A user names a recipe by a file, a folder, a shipped recipe's name, or a run with frozen settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import runs
from messages import refused
from spin_trl.config.fetched import NO_MODEL
from spin_trl.config.recipe import read_settings
from spin_trl.errors import RecipeError
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe import read_recipe

SETTINGS: dict[str, Any] = {**runs.SETTINGS, "model_name_or_path": "org/model", "dataset_name": "data/rows.jsonl"}


def written(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a run with frozen settings, with its parent as the current folder."""
    directory = RunDirectory(tmp_path / "runs" / "mine")
    directory.claim("continue")
    written(directory.own("recipe.yaml"), beta=0.7)
    directory.ownership.see_paths_from(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").touch()
    return directory


def test_the_frozen_settings_of_a_run_have_the_runs_name(run: RunDirectory) -> None:
    for source in (run.path, run.recipe):
        recipe = read_recipe(str(source))
        assert (recipe.name, recipe.args.beta) == ("mine", 0.7)


def test_paths_lead_where_they_led_when_they_were_frozen(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for any folder that the run is resumed from; paths in a user's own file refer to the current folder."""
    monkeypatch.chdir(run.path)
    recipe = read_recipe(str(run.path))
    assert recipe.data.dataset_name == str(tmp_path / "data/rows.jsonl")
    assert recipe.model.model_name_or_path == "org/model"
    mine = written(tmp_path / "my.yaml")
    assert read_recipe(str(mine)).data.dataset_name == "data/rows.jsonl"


def test_a_run_that_has_written_its_settings_under_another_name_is_found(tmp_path: Path) -> None:
    """The user's own recipe is in the directory."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**SETTINGS, "beta": 0.1}), encoding="utf-8")
    directory = RunDirectory(tmp_path)
    directory.claim("continue", tmp_path / "recipe.yaml")
    written(directory.own("recipe.yaml"), beta=0.9)
    assert directory.recipe.name != "recipe.yaml"
    assert read_recipe(str(tmp_path)).args.beta == 0.9
    assert read_recipe(str(tmp_path / "recipe.yaml")).args.beta == 0.1


def test_settings_of_the_command_line_and_losses_come_last(tmp_path: Path) -> None:
    path = written(tmp_path / "my.yaml", loss_type="space", space_mu=2.0)
    assert read_recipe(str(path), ["--learning_rate", "3e-5"]).args.learning_rate == 3e-5
    recipe = read_recipe(str(path), losses={"iris": 1.0, "sft": 0.5})
    assert (recipe.args.losses, recipe.args.loss_weights, recipe.args.space_mu) == (["iris", "sft"], [1.0, 0.5], None)


def test_a_directory_that_came_from_elsewhere_sets_no_variable_that_leads_to_code(run: RunDirectory) -> None:
    """The user's own file may."""
    mine = written(run.path.parent / "my.yaml", env={"PYTHONPATH": "/theirs"})
    assert read_recipe(str(mine)).args is not None
    written(run.recipe, env={"PYTHONPATH": "/theirs"})
    with refused(RecipeError, "PYTHONPATH"):
        read_recipe(str(run.path))


def test_the_placeholder_of_init_is_no_model(tmp_path: Path) -> None:
    """`spin-trl init` itself reads the recipe that it has written."""
    path = written(tmp_path / "spin.yaml", model_name_or_path=NO_MODEL)
    with refused(RecipeError, "`model_name_or_path`", NO_MODEL):
        read_recipe(str(path))
    assert read_settings(str(path)).model.model_name_or_path == NO_MODEL
