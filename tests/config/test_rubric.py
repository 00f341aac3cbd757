"""A rubric's file is read and checked with the recipe, and its content is frozen with the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import spin_trl
from messages import names, refused
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.config.recipe import Recipe, read_settings
from spin_trl.config.rubric import changed_criteria, rubric_content, rubric_for
from spin_trl.errors import RecipeError

CONTENT: dict[str, Any] = {"criteria": [{"name": "short", "words": {"max": 9}}, {"name": "data", "format": "json"}]}


def written(folder: Path, content: Any, name: str = "criteria.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def read(recipe: Path, *overrides: str) -> Recipe:
    return read_settings(str(recipe), ["--use_cpu", "true", *overrides])


def test_a_recipe_names_a_file_and_holds_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like other paths of a recipe, this one is relative to the current folder."""
    written(tmp_path, CONTENT)
    recipe = written(tmp_path, {"scorer": "rubric", "rubric": "criteria.yaml"}, "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    found = read(recipe)
    assert found.settings()["rubric"] == found.play.rubric == CONTENT
    assert found.play.criteria.numbers == ["mean", "short", "data"]
    again = read(written(tmp_path, found.settings(), "frozen.yaml"))
    assert again.play.rubric == CONTENT


def test_the_command_line_takes_a_file_or_json(tmp_path: Path) -> None:
    recipe = written(tmp_path, {"scorer": "rubric"}, "recipe.yaml")
    for value in (str(written(tmp_path, CONTENT)), '{"criteria": [{"name": "data", "format": "json"}]}'):
        found = read(recipe, "--rubric", value)
        assert found.play.criteria.numbers[-1] == "data"


def test_from_python_it_is_a_file_or_a_mapping(tmp_path: Path) -> None:
    assert SelfPlayConfig(rubric=str(written(tmp_path, CONTENT))).rubric == CONTENT
    assert SelfPlayConfig(rubric=CONTENT).rubric == CONTENT
    assert SelfPlayConfig().criteria is None


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("criteria: [", ["criteria.yaml", "YAML"]),
        ("- short", ["criteria.yaml", "list"]),
        (
            {"criteria": [{"name": "short", "words": {"maximum": 9}}]},
            ["criteria.yaml", "'short'", "'maximum'", "'max'"],
        ),
        ({"criteria": [{"name": "key", "forbidden": "hf_" + "aB3" * 12}]}, ["criteria.yaml"]),
        ({"criteria": [{"name": "odd", "words": {"max": 2**70}}]}, ["`rubric`"]),
    ],
)
def test_a_file_that_can_not_be_used_is_named_with_the_criterion(
    content: Any, parts: list[object], tmp_path: Path
) -> None:
    recipe = written(tmp_path, {"scorer": "rubric", "rubric": str(written(tmp_path, content))}, "recipe.yaml")
    with refused(RecipeError, *parts):
        read(recipe)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refused(RecipeError, "`rubric`", "nowhere.yaml"):
        SelfPlayConfig(scorer="rubric", rubric=str(tmp_path / "nowhere.yaml"))
    with refused(RecipeError, "`rubric`"):
        SelfPlayConfig(scorer="rubric", rubric="")
    with refused(RecipeError, "`rubric`"):
        SelfPlayConfig(scorer="rubric", rubric="a\0b")
    for endless in ("/dev/zero", str(tmp_path)):
        with refused(RecipeError, "`rubric`", endless):
            SelfPlayConfig(scorer="rubric", rubric=endless)


@pytest.mark.parametrize("name", ["scorer", "retain_scorer"])
def test_the_scorer_needs_a_rubric(name: str) -> None:
    with refused(RecipeError, f"`{name}: rubric`", "`rubric`"):
        SelfPlayConfig(**{name: ["exact_match", "rubric"]})


def test_a_rubric_that_no_scorer_uses_is_pointed_out(tmp_path: Path) -> None:
    recipe = written(tmp_path, {"rubric": CONTENT}, "recipe.yaml")
    (said,) = read(recipe).unused(starts_from_adapter=False)
    assert names(said, "`rubric`", "`scorer`")
    for scorer in ({"scorer": "rubric"}, {"retain_scorer": "rubric"}):
        used = read(written(tmp_path, {"rubric": CONTENT, **scorer}, "recipe.yaml"))
        assert used.unused(starts_from_adapter=False) == []


def test_the_example_in_the_guide_is_a_rubric(tmp_path: Path) -> None:
    """It can be copied as it is; its two recipes' lines are settings."""
    guide = (Path(spin_trl.__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    recipe, example = (block for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "rubric.yaml" in block)
    content = rubric_content(str(written(tmp_path, example)))
    found = SelfPlayConfig(**{**yaml.safe_load(recipe), "rubric": content}).criteria
    long, polite = "word " * 30, "Certainly! " + "word " * 30
    assert found.score(long + "[1]", {}) == dict.fromkeys(found.numbers, 1.0)
    assert found.score(polite, {})["mean"] == 0.75
    assert [found.score(polite, {})[name] for name in found.numbers[1:]] == [1.0, 1.0, 0.0, 0.0]


def test_changed_criteria_are_named() -> None:
    other: dict[str, Any] = {
        "criteria": [{"name": "short", "words": {"max": 8}}, {"name": "polite", "forbidden": "no"}]
    }
    assert names(changed_criteria(CONTENT, other), "'short'", "'polite'", "'data'")
    assert changed_criteria(CONTENT, {"criteria": CONTENT["criteria"][::-1]})
    assert not names(changed_criteria(CONTENT, {"criteria": CONTENT["criteria"][:1]}), "'short'")


def test_a_command_may_name_another_file(tmp_path: Path) -> None:
    file = str(written(tmp_path, CONTENT))
    assert rubric_for(["rubric"], file, None) == rubric_for(["json"], None, CONTENT) == CONTENT
    assert rubric_for(["json"], None, None) is rubric_content(None) is None
    with refused(RecipeError, "`--rubric`", "json", "`--scorer rubric`"):
        rubric_for(["json"], file, None)
