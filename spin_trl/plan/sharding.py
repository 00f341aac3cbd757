"""How many processes train, and what each holds of the model: read from the recipe's `accelerate_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..counts import counted
from ..errors import PlanError

SHARDINGS = ("NO", "DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP")


@dataclass(frozen=True)
class Sharding:
    """What training's processes share.

    Attributes:
        kind: one of `SHARDINGS`. Generation and evaluation always hold whole replicas.
        num_processes: GPUs.
        offloads_optimizer: whether optimiser states are kept in the host's memory.
        offloads_weights: whether weights are, too.
        checkpoints: whether FSDP checkpoints activations by itself.
    """

    kind: str = "NO"
    num_processes: int = 1
    offloads_optimizer: bool = False
    offloads_weights: bool = False
    checkpoints: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds a part only of what training needs."""
        return self.kind not in ("NO", "DDP")

    @property
    def shards_weights(self) -> bool:
        return self.kind in ("ZeRO-3", "FSDP")

    @property
    def described(self) -> str:
        if self.kind == "NO":
            return "one process"
        host = " with optimiser and weights on the host" if self.offloads_weights else ""
        host = host or (" with the optimiser on the host" if self.offloads_optimizer else "")
        return f"{counted(self.num_processes, 'process', 'processes')}, {self.kind}{host}"


def read_sharding(config: Mapping[str, Any] | None, num_gpus: int | None = None) -> Sharding:
    """What an accelerate configuration says.

    Args:
        config: the file's content, or None: one process, or DDP.
        num_gpus: instead of the configuration's `num_processes`.

    Raises:
        PlanError: the configuration is of a kind that can't be planned.
    """
    config = config or {}
    count = int(num_gpus or config.get("num_processes") or 1)
    kind = str(config.get("distributed_type", "NO")).upper()
    if kind == "DEEPSPEED":
        settings = config.get("deepspeed_config") or {}
        if "zero_stage" not in settings:
            raise PlanError(
                "The accelerate configuration has no `zero_stage`. One that names a DeepSpeed file of its own can't be "
                "planned; write its stage and offloading into `deepspeed_config`."
            )
        stage = int(settings["zero_stage"])
        return Sharding(
            f"ZeRO-{stage}" if stage else _replicas(count),
            count,
            _on_host(settings.get("offload_optimizer_device")),
            _on_host(settings.get("offload_param_device")),
        )
    if kind == "FSDP":
        settings = config.get("fsdp_config") or {}
        offloads, checkpoints = (
            _true(settings.get(f"fsdp_{name}")) for name in ("offload_params", "activation_checkpointing")
        )
        return Sharding("FSDP", count, offloads, offloads, checkpoints)
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return Sharding(_replicas(count), count)
    raise PlanError(f"`distributed_type: {kind}` can't be planned; known are NO, MULTI_GPU, FSDP and DEEPSPEED.")


def _replicas(count: int) -> str:
    return "DDP" if count > 1 else "NO"


def _on_host(value: Any) -> bool:
    return str(value or "none").lower() in ("cpu", "nvme")


def _true(value: Any) -> bool:
    return str(value).lower() == "true"
