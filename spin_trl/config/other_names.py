"""What other tools call the settings of a recipe: TRL's and transformers' earlier names, axolotl's and LLaMA-Factory's.

Who brings a recipe from there should not have to guess. A name that means the same is accepted, and said; one that means
something close is refused with the name here, and what is different.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

SAME: Mapping[str, str] = {
    "base_model": "model_name_or_path",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "cutoff_len": "max_length",
    "data_path": "dataset_name",
    "dataset_config_name": "dataset_config",
    "dataset_name_or_path": "dataset_name",
    "dataset_path": "dataset_name",
    "dataset_processes": "dataset_num_proc",
    "dataset_split": "dataset_train_split",
    "dpo_beta": "beta",
    "epochs": "num_train_epochs",
    "evaluation_strategy": "eval_strategy",
    "hub_private": "hub_private_repo",
    "lora_modules": "lora_target_modules",
    "lora_rank": "lora_r",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "model_id": "model_name_or_path",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "modules_to_save": "lora_modules_to_save",
    "no_cuda": "use_cpu",
    "num_epochs": "num_train_epochs",
    "num_return_sequences": "num_generations",
    "optimizer": "optim",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "pref_beta": "beta",
    "preprocessing_num_workers": "dataset_num_proc",
    "push_to_hub_model_id": "hub_model_id",
    "revision": "model_revision",
    "revision_of_model": "model_revision",
    "sequence_len": "max_length",
    "target_modules": "lora_target_modules",
    "torch_dtype": "dtype",
    "train_file": "dataset_name",
}
"""Names that mean the same as one here, value for value."""

_ADAPTERS: Mapping[Any, Mapping[str, Any]] = {
    "lora": {"use_peft": True},
    "qlora": {"use_peft": True, "load_in_4bit": True},
    "full": {},
    "": {},
    None: {},
}
_FLASH: Mapping[Any, Mapping[str, Any]] = {True: {"attn_implementation": "flash_attention_2"}, False: {}, None: {}}

BY_VALUE: Mapping[str, tuple[str, Mapping[Any, Mapping[str, Any]]]] = {
    "adapter": ("use_peft", _ADAPTERS),
    "finetuning_type": ("use_peft", _ADAPTERS),
    "flash_attention": ("attn_implementation", _FLASH),
    "use_flash_attention_2": ("attn_implementation", _FLASH),
    "use_flash_attn": ("attn_implementation", _FLASH),
    "lora_target_linear": ("lora_target_modules", {True: {"lora_target_modules": "all-linear"}, False: {}, None: {}}),
}
"""Names that mean a setting here by their value: the setting's name, and what each value sets."""

CLOSE: Mapping[str, tuple[str, str]] = {
    "batch_size": ("per_device_train_batch_size", "that of one process; `gradient_accumulation_steps` multiplies it"),
    "bnb_4bit_compute_dtype": ("dtype", "quantised weights are computed with in that"),
    "chat_template": ("chat_template_kwargs", "the template is the tokenizer's own; save it there"),
    "chat_template_path": ("chat_template_kwargs", "the template is the tokenizer's own; save it there"),
    "dataset": ("dataset_name", "a file, a folder, a Hub name, or `module:function`"),
    "dataset_mixture": ("dataset_name", "one dataset; mix several before, into one file"),
    "dataset_mixer": ("dataset_name", "one dataset; mix several before, into one file"),
    "dataset_splits": ("dataset_train_split", "and `held_out_split`"),
    "dataset_text_field": ("column_mapping", "{your column: prompt, another: completion}"),
    "datasets": ("dataset_name", "one dataset; mix several before, into one file"),
    "do_sample": ("temperature", "0 decodes greedily"),
    "early_stopping_patience": ("patience", "in iterations"),
    "eval_batch_size": ("per_device_eval_batch_size", "that of one process"),
    "eval_dataset": ("held_out_name", "with `held_out_split`"),
    "eval_dataset_name": ("held_out_name", "with `held_out_split`"),
    "eval_split": ("held_out_split", "with `held_out_name`"),
    "flash_attn": ("attn_implementation", "flash_attention_2, sdpa or eager"),
    "gradient_accumulation": ("gradient_accumulation_steps", ""),
    "group_by_length": ("train_sampling_strategy", "pairs are shuffled"),
    "iterations": ("num_iterations", ""),
    "load_best_model": ("metric_for_best_iteration", "the best iteration is what a run delivers"),
    "logging_dir": ("report_to", "TensorBoard's curves lie in the run directory"),
    "lora_target": ("lora_target_modules", "a list of layers, or all-linear"),
    "loss": ("loss_type", ""),
    "max_completion_length": ("max_new_tokens", "of generated answers; `max_length` cuts what is trained on"),
    "max_model_len": ("max_length", "of prompt and response together"),
    "max_prompt_length": ("max_length", "of prompt and response together; a prompt is never cut"),
    "max_target_length": ("max_new_tokens", "of generated answers; `max_length` cuts what is trained on"),
    "max_tokens": ("max_new_tokens", "of generated answers; `max_length` cuts what is trained on"),
    "mixed_precision": ("bf16", "or `fp16`"),
    "model": ("model_name_or_path", "a folder or a Hub name"),
    "model_max_length": ("max_length", "of prompt and response together"),
    "n_epochs": ("num_train_epochs", ""),
    "num_rounds": ("num_iterations", ""),
    "overwrite_output_dir": ("existing_run", "`overwrite` deletes the run that is there"),
    "packing": ("shared_prefix", "prompts are shared by their responses without it"),
    "pref_loss": ("loss_type", ""),
    "quantization": ("load_in_4bit", "or `load_in_8bit`"),
    "quantization_bit": ("load_in_4bit", "or `load_in_8bit`"),
    "ref_model": ("model_name_or_path", "the reference of an iteration is the model that it starts from"),
    "ref_model_name_or_path": ("model_name_or_path", "the reference of an iteration is the model that it starts from"),
    "rl": ("loss_type", ""),
    "rl_beta": ("beta", ""),
    "roles_to_train": ("train_on_turn", "only assistant turns are trained on"),
    "sample_packing": ("shared_prefix", "prompts are shared by their responses without it"),
    "save_safetensors": ("save_strategy", "weights are always saved in safetensors"),
    "sdp_attention": ("attn_implementation", "sdpa"),
    "split": ("dataset_train_split", ""),
    "template": ("chat_template_kwargs", "the template is the tokenizer's own; save it there"),
    "test_datasets": ("held_out_name", "with `held_out_split`"),
    "test_size": ("held_out_fraction", "a share of the prompts, of 0.5 at most"),
    "train_batch_size": (
        "per_device_train_batch_size",
        "that of one process; `gradient_accumulation_steps` multiplies it",
    ),
    "train_dataset": ("dataset_name", "a file, a folder, a Hub name, or `module:function`"),
    "train_on_inputs": ("train_on_turn", "only assistant turns are trained on"),
    "use_lora": ("use_peft", ""),
    "use_vllm": ("generation_batch_size", "answers are generated by transformers"),
    "use_wandb": ("report_to", "wandb"),
    "val_set_size": ("held_out_fraction", "a share of the prompts, of 0.5 at most"),
    "val_size": ("held_out_fraction", "a share of the prompts, of 0.5 at most"),
    "validation_file": ("held_out_name", "a file, a folder, a Hub name, or `module:function`"),
    "wandb_name": ("run_name", ""),
    "wandb_project": ("report_to", "wandb; its project is `env: {WANDB_PROJECT: ...}`"),
    "warmup_ratio": ("warmup_steps", "1 or more are steps, less is a share of them"),
    "xformers_attention": ("attn_implementation", "sdpa"),
}
"""Names that mean something close: the name here, and what it is."""


_SHARE = "warmup_ratio"


def translated(name: str, value: Any) -> dict[str, Any] | None:
    """A setting of another tool as settings here, where they mean the same; None where they don't.

    Args:
        name: as the other tool has it.
        value: of a YAML file, or text of a command line.
    """
    if name in SAME:
        return {SAME[name]: value}
    if name == _SHARE:
        # A share of all steps is no other number here, as long as it is not taken for a number of steps.
        share = _as_number(value)
        return {"warmup_steps": value} if share is not None and 0 <= share < 1 else None
    if name in BY_VALUE:
        known = BY_VALUE[name][1]
        value = (
            {"true": True, "false": False, "none": None}.get(value.lower(), value) if isinstance(value, str) else value
        )
        found = known.get(value) if isinstance(value, str | bool | None) else None
        return None if found is None else dict(found)
    return None


def _as_number(value: Any) -> float | None:
    """A number of a YAML file (which takes `1e-1` for text), or of a command line."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None


def said_of(name: str) -> str | None:
    """What to say of a setting that is called otherwise here, as the end of a message; None if no such name is known."""
    if name in BY_VALUE:
        return f"; here it is {BY_VALUE[name][0]!r}."
    if name in SAME:
        return f"; here it is {SAME[name]!r}."
    if name in CLOSE:
        ours, what = CLOSE[name]
        return f"; here it is {ours!r}{f' ({what})' if what else ''}."
    return None


def translate(settings: Mapping[str, Any], known: Callable[[str], bool]) -> tuple[dict[str, Any], list[str]]:
    """Settings with the names that they have here.

    Args:
        settings: by name.
        known: whether a name is a setting here.

    Returns:
        The settings, and of each that was renamed, what it is now, like `torch_dtype is dtype`.

    Raises:
        ValueError: a setting stands there by both names.
    """
    found = {name: value for name, value in settings.items() if known(name)}
    renamed = []
    for name, value in settings.items():
        ours = None if known(name) else translated(name, value)
        if ours is None:
            found.setdefault(name, value)
            continue
        for other, becomes in ours.items():
            if other in found and found[other] != becomes:
                raise ValueError(f"`{name}` is `{other}` here, which is there, too: {becomes!r} and {found[other]!r}.")
            found[other] = becomes
        what = SAME.get(name) or ", ".join(f"{other}: {becomes}" for other, becomes in ours.items()) or "not needed"
        renamed.append(f"{name} is {what}")
    return found, renamed


_OPTION = re.compile(r"--(\w+)(?:=(.*))?", re.DOTALL)


def translate_arguments(arguments: list[str], known: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Command-line arguments with the names that their settings have here, and what was renamed."""
    found: list[str] = []
    renamed: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option = _OPTION.fullmatch(argument)
        name = option[1] if option else ""
        if not option or known(name) or name not in (*SAME, *BY_VALUE, _SHARE):
            found.append(argument)
            continue
        if name in SAME:
            found.append(f"--{SAME[name]}" + ("" if option[2] is None else f"={option[2]}"))
            renamed.append(f"{name} is {SAME[name]}")
            continue
        has_value = option[2] is not None or (bool(rest) and not rest[0].startswith("--"))
        value = option[2] if option[2] is not None else rest[0] if has_value else "true"
        ours = translated(name, value)
        if ours is None:
            found.append(argument)
            continue
        if has_value and option[2] is None:
            rest.pop(0)
        found += [f"--{other}={becomes}" for other, becomes in ours.items()]
        renamed.append(f"{name} is {', '.join(f'{o}: {b}' for o, b in ours.items()) or 'not needed'}")
    return found, renamed
