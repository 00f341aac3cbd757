"""The run directory is `run_dir`, `output_dir` or `runs/NAME` of a recipe, or a run directory given instead of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import runs
from messages import names, refused
from spin_trl.cli.session import run_dir_of, session_of
from spin_trl.errors import RunDirectoryError
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe import read_recipe
from spin_trl.run.settings import freeze


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(name: str = "my.yaml", **settings: Any) -> str:
    """Write a recipe file."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(yaml.safe_dump({"use_cpu": True, "bf16": False, **settings}), encoding="utf-8")
    return name


def place(source: str, *overrides: str) -> str:
    """Return the run directory of a recipe."""
    return run_dir_of(read_recipe(source, overrides), source, list(overrides))


def begun(folder: str, source: str, *overrides: str) -> RunDirectory:
    """Create a run of a recipe."""
    directory = RunDirectory(folder)
    directory.ownership.claim(Path(source))
    freeze(directory, read_recipe(source, overrides).settings())
    return directory


def test_a_run_is_where_it_is_set() -> None:
    assert place(recipe()) == "runs/my"
    assert place(recipe(), "--smoke") == "runs/my-smoke"
    assert place(recipe(output_dir="out/exp1")) == "out/exp1"
    assert place(recipe(), "--output_dir", "out/exp2") == "out/exp2"
    assert place(recipe(), "--output_dir=trainer_output") == "trainer_output"
    assert place(recipe(output_dir="out/exp1"), "--smoke") == "out/exp1-smoke"
    assert place(recipe(output_dir="out/exp1", run_dir="there")) == "there"
    assert place(recipe(output_dir=None)) == "runs/my"


def test_the_run_of_a_recipe_with_an_output_dir_goes_on_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Version 0.1.0 ignored `output_dir`. The run of another recipe is not touched."""
    begun("runs/my", recipe(output_dir="out/exp1"))
    assert place("my.yaml") == "runs/my"
    assert names(capsys.readouterr().out, "runs/my", "`output_dir`", "out/exp1")
    assert place("my.yaml", "--seed", "7") == "out/exp1"


def test_a_recipe_that_is_called_recipe_is_named_after_its_folder(tmp_path: Path) -> None:
    assert place(recipe("recipe.yaml")) == f"runs/{tmp_path.name}"
    assert place(recipe("a/recipe.yaml")) == "runs/a"
    assert place("a") == "runs/a"


def test_a_run_directory_goes_on_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It resumes from any folder, and wherever it was moved to."""
    begun("runs/my", recipe(), "--run_dir", "runs/my")
    assert place("runs/my") == "runs/my"
    monkeypatch.chdir("runs")
    assert place("my") == "my"
    Path("my").rename("new")
    assert place("new") == "new"
    with refused(RunDirectoryError, "new", "`run_dir`", "other", "new/recipe.yaml"):
        place("new", "--run_dir", "other")
    for existing in ("overwrite", "fail"):
        with refused(RunDirectoryError, "new", "`existing_run`", existing, "recipe"):
            place("new", f"--existing_run={existing}")
    assert place("new", "--existing_run", "continue") == "new"


def test_a_project_may_be_the_run_directory_and_its_recipe_stays(tmp_path: Path) -> None:
    """The run's own settings are stored under another name, and found there."""
    recipe("project/recipe.yaml", seed=3)
    Path("project/recipe.yaml").write_text(
        Path("project/recipe.yaml").read_text(encoding="utf-8") + "# mine\n", encoding="utf-8"
    )
    before = Path("project/recipe.yaml").read_bytes()
    directory = begun("project", "project/recipe.yaml")
    assert Path("project/recipe.yaml").read_bytes() == before
    assert directory.recipe == Path("project/spin_trl-recipe.yaml")
    found = read_recipe("project")
    assert (found.args.seed, found.name, found.file) == (3, "project", directory.recipe)
    assert place("project") == "project"


@pytest.mark.parametrize(
    ("written", "overrides", "named"),
    [
        ({}, [], None),
        ({"engine": "transformers"}, [], "transformers"),
        ({"engine": "auto"}, ["--engine", "transformers"], "transformers"),
    ],
)
def test_an_engine_that_is_named_is_told_from_the_default(
    written: dict[str, Any], overrides: list[str], named: str | None, llama_folder: Path
) -> None:
    """A run that goes on keeps its engine, unless another one is asked for by name."""
    path = runs.recipe(Path("here"), llama_folder, **written)
    session = session_of(str(path), overrides)
    assert session._settings.get("engine") == named
    assert ("engine" in session._engine.asked) == (named is not None)
