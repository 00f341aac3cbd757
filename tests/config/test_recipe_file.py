"""A recipe's file is found by its path, its folder or its shipped name."""

import os
from pathlib import Path

from messages import refused
from spin_trl.config import shipped
from spin_trl.config.recipe_file import find_file, name_of_recipe
from spin_trl.errors import RecipeError


def test_a_recipe_is_a_file_a_folder_a_run_or_a_shipped_name(tmp_path: Path) -> None:
    """A run directory contains its own recipe; a recipe in a folder is named after the folder."""
    for folder, file in (("mine", "spin.yaml"), ("run", "recipe.yaml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
        assert find_file(str(tmp_path / folder)) == tmp_path / folder / file
        assert name_of_recipe(tmp_path / "mine" / file) == "mine"
        assert find_file(str(tmp_path / folder / file)) == tmp_path / folder / file
    assert find_file("quickstart").name == "spin.yaml"


def test_an_unknown_recipe_is_answered_with_those_that_ship(tmp_path: Path) -> None:
    """The nearest name is suggested."""
    with refused(RecipeError, "'quickstrat'", "'quickstart'", *shipped.recipes()):
        find_file("quickstrat")
    with refused(RecipeError, f"'{tmp_path / 'none.yaml'}'"):
        find_file(str(tmp_path / "none.yaml"))


def test_a_path_without_a_recipe_is_answered_with_what_is_there(tmp_path: Path) -> None:
    """The path may be missing, a folder without either file, or a device; a name that is too long is not reported as a
    system error.
    """
    for missing in ("nothere.yaml", "quickstart.yaml", "a" * 5_000):
        with refused(RecipeError, "file", "folder", repr(missing), "quickstart"):
            find_file(missing)
    with refused(RecipeError, repr(str(tmp_path)), "folder", "recipe.yaml", "spin.yaml"):
        find_file(str(tmp_path))
    with refused(RecipeError, repr(os.devnull), "regular"):
        find_file(os.devnull)
