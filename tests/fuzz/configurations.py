"""Files that settings name: configurations of accelerate, FSDP and DeepSpeed that are damaged, or of other shapes."""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random
from typing import Any

import yaml

from spin_trl.config.shipped import accelerate_configs

from . import values
from .materials import Materials
from .parts import Input, put, settings_of, write_recipe

OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "fsdp_config": (
        "json",
        {"min_num_params": 0, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "version": 2},
    ),
    "accelerator_config": ("json", {"split_batches": False, "even_batches": True, "dispatch_batches": None}),
    "deepspeed": (
        "json",
        {"zero_optimization": {"stage": 2}, "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"},
    ),
}
"""Settings that may name a file: how it is written, and its content when valid."""

KEYS = (
    "num_machines", "num_processes", "distributed_type", "mixed_precision", "fsdp_config", "deepspeed_config",
    "machine_rank", "main_process_port", "use_cpu", "zero_stage", "fsdp_version", "gpu_ids", "compute_environment",
    "offload_optimizer_device", "fsdp_offload_params", "fsdp_cpu_offload", "zero3_init_flag", "debug", "unknown",
)  # fmt: skip
"""Keys of accelerate's configurations, including some that belong elsewhere in them."""


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in accelerate_configs().items()}


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a recipe that names a configuration with wrong content."""
    setting = rng.choice(["accelerate_config"] * 4 + list(OWN))
    if setting == "accelerate_config":
        form, says = "yaml", dict(_shipped()[rng.choice(sorted(_shipped()))])
    else:
        form, says = OWN[setting]
    form = rng.choice([form] * 8 + ["yaml", "json", "yml", "txt"])
    luck = rng.random()
    if luck < 0.4:
        given = {rng.choice(KEYS): values.odd(rng)}
        says, what = says | given, f"says {given!r}"[:150]
    elif luck < 0.7:
        says, what = values.changed(rng, says, rng.choice([1, 1, 2])), "changed"
    elif luck < 0.8:
        says, what = values.odd(rng), "is something else"
    else:
        what = "as it is"
    content = values.as_utf8(values.as_json(says) if form == "json" else values.as_yaml(says))
    if what == "as it is":
        what, content = (
            values.damaged(rng, content) if rng.random() < 0.7 else values.encoded(rng, content.decode() + "# é")
        )
    path = folder / f"other.{form}"
    path.write_bytes(b"")
    what += put(rng, path, content)
    recipe = write_recipe(folder, settings_of(materials, **{setting: path.name}))
    arguments = [rng.choice(["plan", "start"] if setting == "accelerate_config" else ["start"]), recipe]
    if arguments[0] == "plan" and rng.random() < 0.3:
        arguments += ["--num_gpus", "2", "--gpu", "h100"]
    return Input(arguments, f"{setting}: {path.name} {what}")
