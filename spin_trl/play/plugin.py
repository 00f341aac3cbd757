"""The training plugin of the launcher that started this process: under FSDP or DeepSpeed, no process has the whole model."""

from __future__ import annotations

import os

_PLUGINS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def training_plugin() -> str | None:
    """Return the plugin (FSDP or DeepSpeed) of the launcher that started this process, which shards the model, or None."""
    return next((name for key, name in _PLUGINS.items() if os.environ.get(key, "").lower() == "true"), None)
