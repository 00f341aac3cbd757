"""The file of the recipe that a user names is found."""

from pathlib import Path

from messages import refused
from spin_trl.config import shipped
from spin_trl.errors import RecipeError
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe_file import find_recipe, frozen_recipe


def test_every_way_to_name_a_recipe_finds_its_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "mine")
    run.claim("continue")
    run.own("recipe.yaml").write_text("beta: 0.7", encoding="utf-8")
    file, folder = tmp_path / "my.yaml", tmp_path / "folder/spin.yaml"
    folder.parent.mkdir()
    for path in (file, folder):
        path.touch()
    assert find_recipe(str(file)) == file
    assert find_recipe(str(folder.parent)) == folder
    assert find_recipe(str(run.path)) == frozen_recipe(run.path) == run.recipe
    assert find_recipe("quickstart") == shipped.recipes()["quickstart"]
    with refused(RecipeError, "nowhere"):
        find_recipe("nowhere")
