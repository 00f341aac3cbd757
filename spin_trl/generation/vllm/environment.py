"""The environment variables of a server: what vLLM reads, and nothing of the launcher that started the run."""

from __future__ import annotations

import os
from collections.abc import Mapping

_OF_A_LAUNCH = frozenset(
    {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
    | {"MASTER_ADDR", "MASTER_PORT", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"}
)
_PREFIXES_OF_A_LAUNCH = ("TORCHELASTIC_", "TORCH_NCCL_", "ACCELERATE_", "FSDP_", "SPIN_TRL_", "PMI_", "PMIX_", "OMPI_")
"""Variables of torchrun, accelerate, MPI and this package: vLLM would take itself for a process of the run's launch."""


def server_environment(
    model: str,
    key: str,
    *,
    devices: str | None = None,
    loads_adapters: bool = False,
    parent: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return the environment of a server.

    Args:
        model: folder or Hub name of the model; with a folder, nothing is asked of the Hub.
        key: key that requests have to send. It is in the environment, since every user sees a command line.
        devices: value of `CUDA_VISIBLE_DEVICES`; None: unchanged.
        loads_adapters: whether adapters are loaded and unloaded while the server runs.
        parent: environment to start from.
    """
    kept = without_launch(parent)
    ours = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    if os.path.isdir(model):
        ours["HF_HUB_OFFLINE"] = "1"
    if loads_adapters:
        ours["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if devices is not None:
        ours["CUDA_VISIBLE_DEVICES"] = devices
    return {**kept, **ours}


def without_launch(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without those of the launcher that started this process."""
    return {
        name: value
        for name, value in variables.items()
        if name not in _OF_A_LAUNCH and not name.startswith(_PREFIXES_OF_A_LAUNCH)
    }


def device_groups(count: int, per_server: int, visible: str | None) -> list[str]:
    """Divide a run's GPUs among servers.

    Args:
        count: number of GPUs that the run sees.
        per_server: GPUs per server (tensor parallelism).
        visible: the run's own `CUDA_VISIBLE_DEVICES`, if set: numbers or UUIDs, which torch counts from 0.

    Returns:
        The value of `CUDA_VISIBLE_DEVICES` for every server. GPUs that do not make up a whole group are left out.
    """
    names = (
        [name.strip() for name in visible.split(",")][:count] if visible else [str(number) for number in range(count)]
    )
    groups = [names[start : start + per_server] for start in range(0, len(names), per_server)]
    return [",".join(group) for group in groups if len(group) == per_server]
