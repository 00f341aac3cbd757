"""`sft_X` is SFTConfig's `X`, checked, suggested and typed like other settings; everything else comes from an iteration."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import SFTConfig

from messages import refused
from spin_trl.config.recipe import read_settings
from spin_trl.config.sft import OF_SFT, check_sft_args, supervised_config
from spin_trl.config.traits import OF_PREFERENCES, OF_SFT_PACE, SET_BY_SFT
from spin_trl.errors import RecipeError
from trainers import settings


def test_settings_of_sft_stand_in_a_recipe_and_on_the_command_line(tmp_path: Path) -> None:
    """They are stored as `sft_args`; the command line overrides the file, and settings of the loop stay separate."""
    path = tmp_path / "mine.yaml"
    file = {"start": "sft", "sft_learning_rate": "1e-4", "sft_num_train_epochs": 2, "sft_share": 0.5, "bf16": False}
    path.write_text(yaml.safe_dump(file | {"model_name_or_path": "x", "dataset_name": "y"}), encoding="utf-8")
    found = read_settings(str(path), ["--use_cpu", "--sft_num_train_epochs", "3", "--sft_packing"]).play
    assert found.sft_args == {"learning_rate": 1e-4, "num_train_epochs": 3.0, "packing": True}
    assert found.sft_share == 0.5
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(read_settings(str(path), ["--use_cpu"]).settings()), encoding="utf-8")
    assert read_settings(str(again)).play.sft_args == {"learning_rate": 1e-4, "num_train_epochs": 2.0}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"learning_rat": 1}, ("'sft_learning_rat'", "'sft_learning_rate'")),
        ({"output_dir": "x"}, ("`sft_output_dir`", "`output_dir`")),
        ({"learning_rate": 0}, ("`sft_learning_rate`", 0)),
        ({"num_train_epochs": "many"}, ("`sft_num_train_epochs`", "'many'")),
        ({"per_device_train_batch_size": 0}, ("`sft_per_device_train_batch_size`", 0)),
        ({"num_train_epochs": 0}, ("`sft_num_train_epochs`", 0.0)),
        ({"torch_compile_mode": "fast"}, ("`sft_torch_compile_mode`", "'fast'", "'reduce-overhead'")),
        ("[1]", ("`sft_args`",)),
    ],
)
def test_wrong_settings_are_named_as_in_the_recipe(values: Any, parts: tuple[Any, ...]) -> None:
    with refused(RecipeError, *parts):
        check_sft_args(values)


def test_one_way_of_setting_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("use_cpu: true\nbf16: false\n", encoding="utf-8")
    with refused(RecipeError, "`--sft_args`", "`--sft_seed`"):
        read_settings(str(path), ["--sft_args", "{}", "--sft_seed", "1"])
    with refused(RecipeError, "`--sft_seed`"):
        read_settings(str(path), ["--sft_seed", "{"])


def test_trls_own_config_may_be_given() -> None:
    """What differs from its defaults is used; the run decides where it writes and what it pushes."""
    given = SFTConfig("out", learning_rate=3e-5, packing=True, report_to="none", use_cpu=True, bf16=False)
    assert check_sft_args(given) == {"learning_rate": 3e-5, "packing": True}


def test_an_arm_shares_the_pace_of_an_iteration() -> None:
    config = supervised_config(settings(learning_rate=3e-3, num_train_epochs=2, lr_scheduler_type="cosine"))
    assert (config.learning_rate, config.num_train_epochs, config.lr_scheduler_type) == (3e-3, 2, "cosine")
    assert (config.eval_strategy, config.save_strategy, config.loss_type) == ("no", "no", "nll")


def test_every_name_in_the_lists_is_a_setting_of_sft() -> None:
    """Settings that a run sets, shares or leaves to SFT have TRL's names; `logging_dir` was removed in transformers 5."""
    known = set(SFTConfig.__dataclass_fields__) | {"logging_dir"}
    assert known >= SET_BY_SFT
    assert known >= OF_SFT_PACE
    assert known >= OF_PREFERENCES
    assert not OF_SFT.kinds.keys() & SET_BY_SFT
