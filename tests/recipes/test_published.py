"""The recipes that reproduce a paper have the paper's settings, key by key."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from spin_trl.config import shipped
from spin_trl.config.loop import iteration_settings
from spin_trl.config.shipped import read_accelerate_config
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe import read_recipe
from spin_trl.run.recipe_file import find_recipe
from spin_trl.run.run import Run

ULTRACHAT = {
    "dataset_name": "HuggingFaceH4/ultrachat_200k",
    "dataset_train_split": "train_sft",
    "max_rows": 50_000,  # "50k random prompts"
    "train_on_turn": "first",  # "first round only"
    "max_length": 2048,
}
TRAINING = {
    "num_train_epochs": 2,
    "optim": "rmsprop",
    "weight_decay": 0.0,
    "warmup_steps": 0.1,  # "10 %": below 1, it is a fraction of all steps
    "bf16": True,
}

# SPIN, arXiv 2401.01335: appendix B.1; the authors' code for what the paper does not state (generation).
SPIN = {
    **ULTRACHAT,
    **TRAINING,
    "model_name_or_path": "alignment-handbook/zephyr-7b-sft-full",
    "model_revision": "ac6e600eefcce74f5e8bae1035d4f66019e93190",
    "num_iterations": 4,
    "history": 1,  # iterations 1 to 3: the current 50k and the previous 50k
    "loss_type": "sigmoid",
    "learning_rate": [5e-7, 5e-7, 1e-7, 1e-7],
    "beta": [0.1, 0.1, 0.1, 5.0],
    "lr_scheduler_type": "linear",  # from the code
    "seed": 42,  # from the code
    "temperature": 1.0,  # from the code, generate_vllm.py
    "top_p": 1.0,
    "max_new_tokens": 256,
}
# IRIS, arXiv 2604.20933: section on the experiments, table 4.
IRIS = {
    **ULTRACHAT,
    **TRAINING,
    "num_iterations": 5,
    "history": 0,  # no mixing of iterations
    "loss_type": "iris",
    "learning_rate": 5e-7,
    "lr_scheduler_type": "cosine",
    "temperature": 0.7,
    "top_p": 0.9,
    "max_new_tokens": 2048,
}
ZEPHYR = {name: SPIN[name] for name in ("model_name_or_path", "model_revision")}
PUBLISHED: dict[str, dict[str, Any]] = {
    "zephyr-7b": SPIN,
    "zephyr-7b/iris": {**IRIS, **ZEPHYR},
    "qwen2.5-3b": {**IRIS, "model_name_or_path": "Qwen/Qwen2.5-3B-Instruct"},
}
ORDERS = {"zephyr-7b/iris": [3.0, 1.7, 1.4, 1.1, 0.7], "qwen2.5-3b": [2.5, 1.8, 1.4, 1.2, 0.9]}
CPU = ["--use_cpu", "--bf16", "false"]


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, settings in PUBLISHED.items() for setting in settings]
)
def test_a_setting_is_the_papers(name: str, setting: str) -> None:
    """It is written in the YAML, where readers look; none is left to a default."""
    found = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))[setting]
    assert found == PUBLISHED[name][setting]
    assert type(found) is type(PUBLISHED[name][setting])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_takes_64_pairs_on_8_gpus_under_zero_3(name: str) -> None:
    """8 pairs on each of 8 GPUs, with bf16 and DeepSpeed ZeRO-3."""
    recipe = read_recipe(name, CPU)
    config = read_accelerate_config(recipe.play.accelerate_config or "")
    assert config["num_processes"] == 8
    assert config["deepspeed_config"]["zero_stage"] == 3
    assert config["mixed_precision"] == "bf16"
    args = recipe.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 1)


def test_the_settings_of_spin_reach_every_iteration() -> None:
    """After TRL's parser, which would turn lists into text, they are numbers, and there is no unrequested top-k."""
    recipe = read_recipe("zephyr-7b", CPU)
    expected = [(5e-7, 0.1), (5e-7, 0.1), (1e-7, 0.1), (1e-7, 5.0)]
    found = [iteration_settings(recipe.play, iteration) for iteration in range(4)]
    assert [(one["learning_rate"], one["beta"]) for one in found] == expected
    args = recipe.args
    assert (args.top_k, args.num_generations, args.disable_dropout) == (0, 1, True)
    assert args.get_warmup_steps(1000) == 100


@pytest.mark.parametrize("name", ORDERS)
def test_the_orders_of_iris_are_those_of_table_4(name: str) -> None:
    """There is one for each iteration."""
    args = read_recipe(name, CPU).args
    assert [args.objective_values(iteration, 5)["iris_alpha"] for iteration in range(5)] == ORDERS[name]


def test_a_batch_of_256_prompts_is_answered_together() -> None:
    """IRIS has a "global batch 256" in generation, on 8 GPUs."""
    for name in ("zephyr-7b/iris", "qwen2.5-3b"):
        assert 8 * read_recipe(name, CPU).args.generation_batch_size == 256


def test_the_low_rank_recipes_are_what_their_hardware_takes() -> None:
    """A T4 lacks bfloat16; the recipes use 4-bit NF4, LoRA r = 16, alpha = 32, a paged 8-bit optimiser and activation
    checkpointing.
    """
    for name in ("qwen2.5-0.5b-t4", "qwen2.5-0.5b-t4/ultrachat"):
        settings = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
        expected = {
            "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
            "dtype": "float16", "fp16": True, "bf16": False, "use_peft": True, "lora_r": 16, "lora_alpha": 32,
            "attn_implementation": "sdpa", "optim": "paged_adamw_8bit", "activation_checkpointing": True,
            "num_iterations": 3, "push_to_hub": True, "hub_backup": True,
        }  # fmt: skip
        assert {key: settings.get(key) for key in expected} == expected
    lora = yaml.safe_load(find_recipe("qwen2.5-3b/lora").read_text(encoding="utf-8"))
    whole = yaml.safe_load(find_recipe("qwen2.5-3b").read_text(encoding="utf-8"))
    assert lora["use_peft"]
    assert "accelerate_config" not in lora  # one GPU
    for name in (
        "loss_type",
        "iris_alpha",
        "num_iterations",
        "num_train_epochs",
        "temperature",
        "top_p",
        "max_length",
    ):
        assert lora[name] == whole[name], name
    assert lora["per_device_train_batch_size"] * lora["gradient_accumulation_steps"] == 64


def test_every_recipe_says_how_it_is_run_and_has_a_readme() -> None:
    """Its header has the command with its shipped name; the README has the command, the cost, and what to expect."""
    for name, path in shipped.recipes().items():
        head = path.read_text(encoding="utf-8").partition("\n\n")[0]
        assert all(line.startswith("#") for line in head.splitlines()), name
        assert re.search(rf"spin-trl run (recipes/)?{re.escape(name)}[/\s]", head), name
        readme = (path.parent / "README.md").read_text(encoding="utf-8")
        assert f"spin-trl run {name}" in readme or f"spin-trl run recipes/{name}" in readme, name
        assert "**Cost**" in readme, name


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("name", sorted(shipped.recipes()))
def test_two_iterations_of_any_recipe_show_whether_all_fits(name: str, tmp_path: Path) -> None:
    """`--smoke` uses the first values of settings that the recipe has per iteration."""
    recipe = read_recipe(name, [*CPU, "--fp16", "false", "--smoke"])
    run = Run(RunDirectory(tmp_path), recipe.args, recipe.play, recipe.model.model_name_or_path)
    whole = read_recipe(name, [*CPU, "--fp16", "false"])
    for iteration in range(2):
        short, long = (iteration_settings(play, iteration) for play in (run.play, whole.play))
        assert short == long
        if "iris" in recipe.args.losses:
            assert recipe.args.objective_values(iteration, 2) == whole.args.objective_values(iteration, 5)
