"""Settings with a prefix are passed to one of TRL's configs, and checked, typed and suggested like other settings."""

from pathlib import Path

import yaml
from trl import DPOConfig

from messages import refused
from spin_trl.config.dpo import OF_DPO
from spin_trl.config.recipe import read_settings
from spin_trl.config.sft import OF_SFT
from spin_trl.errors import RecipeError


def test_each_prefix_has_its_own_config(tmp_path: Path) -> None:
    """`dpo_name` and its relatives are settings of the run, and the two prefixes stay apart."""
    path = tmp_path / "mine.yaml"
    file = {"then_dpo": "best", "dpo_beta": "0.2", "dpo_name": "pairs.jsonl", "dpo_max": 9, "sft_learning_rate": 1e-4}
    path.write_text(yaml.safe_dump({**file, "bf16": False, "use_cpu": True}), encoding="utf-8")
    found = read_settings(str(path), ["--dpo_num_train_epochs", "2"])
    assert found.play.then_dpo == ["best"]
    assert found.play.dpo_args == {"beta": 0.2, "num_train_epochs": 2.0}
    assert found.play.sft_args == {"learning_rate": 1e-4}
    assert (found.data.dpo_name, found.play.dpo_max) == ("pairs.jsonl", 9)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(found.settings()), encoding="utf-8")
    assert read_settings(str(again)).play.dpo_args == found.play.dpo_args


def test_a_name_is_suggested_with_its_prefix() -> None:
    with refused(RecipeError, "'dpo_learning_rat'", "'dpo_learning_rate'", "`dpo_args`"):
        OF_DPO.check({"learning_rat": 1e-6})
    with refused(RecipeError, "`sft_output_dir`", "SFTConfig"):
        OF_SFT.check({"output_dir": "x"})


def test_every_name_that_the_run_sets_is_one_of_trl() -> None:
    known = set(DPOConfig.__dataclass_fields__) | {"logging_dir"}  # it was removed in transformers 5
    assert known >= OF_DPO.set_by_run
    assert not OF_DPO.kinds.keys() & OF_DPO.set_by_run
