"""Files shipped with the code are found, and nothing else is mistaken for them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import refused
from spin_trl.config import shipped
from spin_trl.config.shipped import read_accelerate_config
from spin_trl.errors import RecipeError


def test_recipes_of_another_package_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any package may install a folder `recipes` next to this one."""
    for name in ("recipes/configs/generation.yaml", "recipes/accelerate/other.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a: 1", encoding="utf-8")
    before = shipped.recipes(), shipped.accelerate_configs()
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "spin_trl")
    assert "configs/generation" not in shipped.recipes()
    assert "other" not in shipped.accelerate_configs()
    (tmp_path / "setup.cfg").touch()
    assert "configs/generation" in shipped.recipes(), "a source tree's own"
    assert {"quickstart", "zephyr-7b"} <= set(before[0])


def test_a_recipe_that_ships_has_its_whole_name(tmp_path: Path) -> None:
    """This includes a variant in a folder without a `spin.yaml`. A user's file of the same name is not a shipped recipe."""
    named = {name: shipped.name_of(path) for name, path in shipped.recipes().items()}
    assert named == {name: name for name in named}
    assert {"smollm2-135m/demo", "zephyr-7b/iris", "quickstart"} <= named.keys()
    (tmp_path / "demo.yaml").touch()
    assert shipped.name_of(tmp_path / "demo.yaml") is None


@pytest.mark.parametrize("name", ["/dev/zero", ".", "a" * 300, "a\0b"], ids=["device", "folder", "long", "nul"])
def test_a_configuration_that_is_no_file_is_refused(name: str) -> None:
    """A device, for example, can be read without end."""
    with refused(RecipeError, "`accelerate_config`"):
        read_accelerate_config(name)


@pytest.mark.parametrize(
    "says",
    [
        {"num_machines": "2"},
        {"num_machines": [2]},
        {"num_processes": True},
        {"fsdp_config": [1]},
        {"deepspeed_config": "a"},
    ],
    ids=range(5),
)
def test_a_value_of_another_kind_is_refused_with_its_name(tmp_path: Path, says: dict[str, Any]) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(yaml.safe_dump(says), encoding="utf-8")
    with refused(RecipeError, "`accelerate_config`", path, *says):
        read_accelerate_config(str(path))


def test_what_accelerate_leaves_open_is_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text("num_machines: null\nnum_processes: null\nfsdp_config: {}\n", encoding="utf-8")
    assert read_accelerate_config(str(path))["num_machines"] is None
