"""The JSON schema of a recipe accepts every valid recipe, and marks what would be refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from spin_trl.config import shipped
from spin_trl.config.recipe import read_settings
from spin_trl.config.reference.listed import every_setting
from spin_trl.config.reference.schema import schema_of
from spin_trl.errors import RecipeError

SCHEMA = schema_of(every_setting())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def faults(settings: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(settings)]


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", sorted(shipped.recipes()))
def test_every_recipe_that_ships_is_accepted_and_names_it(name: str) -> None:
    """The first line of each names it, by a path that an editor can follow."""
    recipe = shipped.recipes()[name]
    text = recipe.read_text(encoding="utf-8")
    assert faults(yaml.safe_load(text)) == []
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.partition("\n")[0])
    assert named is not None
    assert (recipe.parent / named[1]).resolve() == recipe.parents[1] / "schema.json"


ACCEPTED: list[dict[str, Any]] = [
    {"learning_rate": 1.0e-6},
    {"learning_rate": "1e-6"},  # as YAML 1.1 reads 1e-6
    {"learning_rate": [1.0e-6, 5.0e-7, 1.0e-7]},
    {"beta": [0.1, 0.1, 5.0]},
    {"temperature": 0},
    {"generation_batch_size": 8},
    {"generation_batch_size": "auto"},
    {"num_train_epochs": 2},
    {"loss_type": "space"},
    {"loss_type": ["space", "sft"], "loss_weights": [1.0, 0.1]},
    {"scorer": "exact_match"},
    {"scorer": ["exact_match", "regex:(a)"], "metric_for_best_iteration": "score/exact_match"},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"column_mapping": {"question": "prompt", "answer": "completion"}},
    {"eval_strategy": False},  # as YAML 1.1 reads no
    {"max_new_tokens": None, "max_rows": None},
    {"env": {"OMP_NUM_THREADS": "1"}},
    {"tspin_beta": 0, "loss_type": "tspin"},
    {"report_to": ["tensorboard"]},
    {"accelerate_config": "zero3"},
]

REFUSED: list[dict[str, Any]] = [
    {"learnign_rate": 1.0e-6},
    {"lora-r": 16},
    {"learning_rate": 0.0},
    {"learning_rate": "fast"},
    {"learning_rate": True},
    {"temperature": 0.001},
    {"generation_batch_size": 0},
    {"generation_batch_size": "many"},
    {"num_iterations": 0},
    {"num_iterations": 2.5},
    {"num_iterations": [1, 2]},
    {"top_p": 1.5},
    {"loss_type": "spce"},
    {"loss_type": ["space", "spce"]},
    {"bad_rows": "drop"},
    {"use_peft": "perhaps"},
    {"chat_template_kwargs": [1]},
    {"lora_dropout": 1.0},
    {"max_rows": "many"},
    {"iris_alpha": [0.0]},
    {"scorer": {"exact_match": 1}},
]


@pytest.mark.parametrize("settings", ACCEPTED, ids=str)
def test_what_a_recipe_may_say_is_accepted(settings: dict[str, Any]) -> None:
    assert faults(settings) == []


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_what_it_is_refused_for_is_marked(settings: dict[str, Any]) -> None:
    assert len(faults(settings)) == 1


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_what_is_marked_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    """It is refused when the recipe is read, or before a run begins if a single iteration could use it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"use_cpu": True, "bf16": False, **settings}), encoding="utf-8")
    name = next(iter(settings))
    try:
        recipe = read_settings(str(path))
    except RecipeError:
        return
    from spin_trl.training.unplayable import of_run, of_settings

    reasons = [*of_settings(recipe.args), *of_run(recipe.args, recipe.play)]
    try:
        from spin_trl.objectives.registry import check_losses

        check_losses(recipe.args.losses)
    except RecipeError as error:
        reasons.append(str(error))
    assert any(name in reason for reason in reasons)


def test_every_setting_has_its_description() -> None:
    assert [name for name, found in SCHEMA["properties"].items() if not found["description"]] == []
    assert SCHEMA["properties"]["num_iterations"]["default"] == 3
    assert SCHEMA["additionalProperties"] is False
