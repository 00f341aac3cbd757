"""How fast a device trains and answers: every assumption that hours rest on, in one place, each with its reason.

They are assumptions, not measurements. Set against what two papers report, and against one training step on an H100
(benchmarks/README.md), they are right within a factor of two; a measured rate on the command line takes their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device
from .model import PlannedModel
from .setup import Setup

UTILISATION = 0.45
"""Share of the data sheet's products that training reaches in the widest models: 35 to 45 % is what is reported of large
language models on A100s with activation checkpointing."""

HALF_WIDTH = 1024
"""Width of a model that reaches half of that: smaller products leave a GPU waiting for its kernels' launches."""

HOPPER = 0.6
"""Of an A100's share: an H100 computes three times as much, but reads only 1.6 times as much from its memory."""

QUANTISED = 0.7
"""Of that, where weights are unpacked for every use."""

ON_CPU = 0.6
"""Share of its products that a CPU reaches."""

SECONDS_A_LAYER = 1.0e-3
"""That a token takes in a layer beside reading its weights: transformers' `generate` launches some 15 kernels a layer from
Python, 25 to 30 ms in 24 to 32 layers."""

SECONDS_A_LAYER_ON_CPU = 0.25e-3
"""The same on a CPU, which launches nothing."""

WITH_ADAPTER = 1.6
"""Times that, with an adapter beside the weights: two more products at every layer that has one."""

WITH_QUANTISATION = 1.3
"""Times that, with quantised weights."""


@dataclass(frozen=True)
class Speed:
    """How fast one device works on a model.

    Attributes:
        flops: operations a second in training, and where many tokens are run at once.
        step_seconds: of a token of a micro-batch of answers, beside what is read.
        bandwidth: bytes a second.
        training_tokens: forward and backward a second, as given by the user, or None.
        generation_tokens: sampled a second, as given by the user, or None.
        assumed: what of this is assumed, for people.
    """

    flops: float
    step_seconds: float
    bandwidth: float
    training_tokens: float | None = None
    generation_tokens: float | None = None
    assumed: str = ""


def utilisation(device: Device, width: int, *, quantised: bool = False) -> float:
    """Share of a device's products that training reaches.

    Args:
        device: which.
        width: of the model: its hidden size.
        quantised: whether its weights are.
    """
    if not device.is_gpu:
        return ON_CPU
    share = UTILISATION * width / (width + HALF_WIDTH)
    return share * (HOPPER if device.tflops > 500 else 1) * (QUANTISED if quantised else 1)


def speed_of(
    device: Device,
    setup: Setup,
    model: PlannedModel,
    training_tokens: float | None = None,
    generation_tokens: float | None = None,
) -> Speed:
    """How fast a device works on a model, unless the user knows better."""
    config = model.base.config.get_text_config()
    quantised = setup.quantization is not None
    share = utilisation(device, config.hidden_size, quantised=quantised)
    layer = SECONDS_A_LAYER if device.is_gpu else SECONDS_A_LAYER_ON_CPU
    layer *= (WITH_ADAPTER if setup.peft is not None else 1) * (
        WITH_QUANTISATION if quantised and device.is_gpu else 1
    )
    step = layer * config.num_hidden_layers
    said = []
    if training_tokens is None:
        said.append(f"training reaches {share:.0%} of {device.tflops:g} TFLOP/s")
    if generation_tokens is None:
        said.append(
            f"a step of generation takes {1000 * step:.0f} ms, and reading all weights at {device.bandwidth:g} GB/s"
        )
    return Speed(
        share * device.tflops * 1e12,
        step,
        device.bandwidth * 1e9,
        training_tokens,
        generation_tokens,
        "; ".join(said),
    )
