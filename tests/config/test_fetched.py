"""A fetched model has a name that leads to its folder."""

from pathlib import Path

import pytest

from messages import refused
from spin_trl.config.fetched import FETCHABLE, NO_MODEL, check_model_is_named, folder_of, is_fetched, model_path
from spin_trl.config.recipe import read_settings
from spin_trl.errors import RecipeError

NAME = "smollm2-135m"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def pretend(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")


def test_the_folder_tells_how_the_weights_were_stored(cache: Path) -> None:
    """Tables and cards show its name: these are not the original weights."""
    assert folder_of(NAME) == cache / "spin_trl" / "models" / "smollm2-135m-from-q4_1"
    assert all(known.quantization.lower() in folder_of(name).name for name, known in FETCHABLE.items())


def test_a_name_becomes_a_folder_once_the_model_is_there(cache: Path) -> None:
    assert not is_fetched(NAME)
    with refused(RecipeError, repr(NAME), f"`spin-trl fetch {NAME}`"):
        model_path(NAME)
    pretend(folder_of(NAME))
    assert is_fetched(NAME)
    assert model_path(NAME) == str(folder_of(NAME))


def test_the_placeholder_of_init_is_refused_before_the_hub_is_asked(cache: Path) -> None:
    """The Hub is asked for a minute, on a machine that can't reach it. A folder of this name is a model."""
    with refused(RecipeError, "`model_name_or_path`", NO_MODEL, "`spin-trl init`"):
        check_model_is_named(NO_MODEL)
    pretend(cache.parent / NO_MODEL)
    check_model_is_named(NO_MODEL)
    check_model_is_named(None)


@pytest.mark.usefixtures("cache")
def test_other_names_are_left_alone() -> None:
    """This includes a folder of the same name."""
    assert model_path("org/name") == "org/name"
    Path(NAME).mkdir()
    assert model_path(NAME) == NAME


def test_a_recipe_names_it(cache: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model_name_or_path: {NAME}\ndataset_name: rows.jsonl\nuse_cpu: true\n", encoding="utf-8")
    with refused(RecipeError, repr(NAME), f"`spin-trl fetch {NAME}`"):
        read_settings(str(recipe), [])
    pretend(folder_of(NAME))
    assert read_settings(str(recipe), []).model.model_name_or_path == str(folder_of(NAME))
