"""The training plugin of the launcher that started this process: under FSDP or DeepSpeed, no process has the whole model."""

from __future__ import annotations

import os

from ..errors import LaunchError

_PLUGINS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def training_plugin() -> str | None:
    """Return the plugin (FSDP or DeepSpeed) of the launcher that started this process, which shards the model, or None."""
    return next((name for key, name in _PLUGINS.items() if os.environ.get(key, "").lower() == "true"), None)


def check_launcher(config: str | None, *, launches: bool) -> None:
    """Raise if this process was started by a launcher that gets in the way of a whole run.

    Args:
        config: accelerate configuration of the run (`accelerate_config`).
        launches: whether the run launches its phases.

    Raises:
        LaunchError: if it was.
    """
    if config and launches and os.environ.get("WORLD_SIZE", "1") not in ("0", "1"):
        raise LaunchError(
            f"This run launches every phase itself (`accelerate_config: {config}`), but was itself started by a launcher, "
            "so every process would launch all phases. Start it without a launcher (`spin-trl run ...`), or unset the "
            "setting (`--accelerate_config ''`) to run the phases in these processes."
        )
    if (plugin := training_plugin()) is not None:
        raise LaunchError(
            f"A whole run can't be played under {plugin}: generation needs full replicas of the model. Start it without a "
            "launcher (`spin-trl run ... --accelerate_config CONFIG`): each phase is then launched with the right "
            "configuration."
        )
