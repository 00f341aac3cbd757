"""Common names from TRL, transformers, axolotl and LLaMA-Factory are accepted if they mean the same, and explained
otherwise.
"""

import logging
from pathlib import Path

import pytest

from messages import names, refused
from spin_trl.config import recipe
from spin_trl.config.other_names import BY_VALUE, CLOSE, SAME
from spin_trl.errors import RecipeError

CPU = "use_cpu: true\nbf16: false\nnum_iterations: 2\n"


def read(folder: Path, text: str, *overrides: str) -> recipe.Recipe:
    """Read a recipe from its text."""
    path = folder / "mine.yaml"
    path.write_text(CPU + text, encoding="utf-8")
    return recipe.read_settings(str(path), overrides)


def test_every_name_stands_for_a_setting_that_there_is() -> None:
    """None of the foreign names is itself a setting here."""
    known = recipe.known_settings()
    ours = {*SAME.values(), *(name for name, _ in BY_VALUE.values()), *(name for name, _ in CLOSE.values())}
    assert ours <= known
    theirs = [*SAME, *BY_VALUE, *CLOSE]
    assert len(theirs) == len(set(theirs))
    assert not set(theirs) & known


def test_names_that_mean_the_same_are_accepted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """This applies in a file and on the command line, including lists with a value per iteration."""
    with caplog.at_level(logging.WARNING):
        found = read(
            tmp_path,
            "torch_dtype: bfloat16\nbase_model: org/x\nlr: [1e-3, 1e-4]\nsequence_len: 64\nadapter: qlora\nlora_rank: 4\n",
            "--micro_batch_size",
            "2",
            "--use_flash_attention_2",
        )
    assert (found.model.dtype, found.model.model_name_or_path) == ("bfloat16", "org/x")
    assert found.play.per_iteration == {"learning_rate": [1e-3, 1e-4]}
    assert (found.args.max_length, found.args.per_device_train_batch_size) == (64, 2)
    assert (found.model.use_peft, found.model.load_in_4bit, found.model.lora_r) == (True, True, 4)
    assert found.model.attn_implementation == "flash_attention_2"
    assert names(caplog.text, "torch_dtype", "dtype")
    assert names(caplog.text, "micro_batch_size", "per_device_train_batch_size")


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("val_set_size: 0.1", (), ("'val_set_size'", "'held_out_fraction'")),
        ("max_prompt_length: 9", (), ("'max_prompt_length'", "'max_length'", "prompt")),
        (
            "warmup_ratio: 1\nbatch_size: 4",
            (),
            ("'warmup_ratio'", "'warmup_steps'", "'batch_size'", "'per_device_train_batch_size'"),
        ),
        ("", ("--datasets", "x"), ("'--datasets'", "'--dataset_name'")),
        ("adapter: ia3", (), ("'adapter'", "'use_peft'")),
        ("torch_dtype: float16\ndtype: float32", (), ("`torch_dtype`", "`dtype`")),
        ("optim: adamw8bit", (), ("`optim`", "'adamw8bit'", "adamw_torch")),
    ],
)
def test_names_that_mean_something_close_are_refused_with_the_name_here(
    tmp_path: Path, text: str, overrides: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """One message lists all unknown names of a recipe."""
    with refused(RecipeError, *parts):
        read(tmp_path, text, *overrides)


def test_a_share_of_the_steps_for_warming_up_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nearly every recipe has it, and a number below 1 means the same here."""
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, "warmup_ratio: 0.1").args.warmup_steps == 0.1
    assert names(caplog.text, "warmup_ratio", "warmup_steps", 0.1)
    assert read(tmp_path, "warmup_ratio: 1e-1").args.warmup_steps == 0.1
    assert read(tmp_path, "", "--warmup_ratio", "0.03").args.warmup_steps == 0.03


def unused(tmp_path: Path, text: str, *, adapter: bool = False) -> list[str]:
    return read(tmp_path, text).unused(starts_from_adapter=adapter)


def test_lora_settings_that_are_not_used_are_said(tmp_path: Path) -> None:
    """Without `use_peft`, all weights are trained."""
    assert names(unused(tmp_path, "lora_r: 4")[0], "`lora_r`", "`use_peft`", "true")
    assert not unused(tmp_path, "lora_r: 4\nuse_peft: true")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft/adapter_config.json").write_text("{}", encoding="utf-8")
    (said,) = unused(tmp_path, f"use_peft: true\nlora_r: 4\nmodel_name_or_path: {tmp_path / 'sft'}", adapter=True)
    assert names(said, "`lora_r`", tmp_path / "sft", "adapter")
