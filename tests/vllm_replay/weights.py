"""Which weights a folder has: some values of every tensor, which are compared with those of recorded weights.

Training on another CPU rounds differently, so a checksum would not recognise the weights that it gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

VALUES = 4
"""Values of each tensor that are compared."""

MOST_DIFFERENCE = 0.1
"""Largest difference from recorded weights, relative to them. Between iterations of the recorded runs it is 0.125 or more;
between kernels of CPUs it grows with every iteration, to 0.035 after the third."""

Sample = list[float]
"""Values of all tensors of a folder, by the name of the tensor."""


def sample_of(folder: Path) -> Sample:
    """Return values of all tensors in a folder's safetensors files, float32 or float64; none for a folder without any."""
    found: dict[str, Sample] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                values = np.asarray(tensors.get_slice(name)[:1], dtype=np.float64).ravel()
                found[name] = [float(f"{value:.6g}") for value in values[:VALUES]]
    return [value for name in sorted(found) for value in found[name]]


def difference(recorded: Sample, found: Sample) -> float:
    """Return the distance of two samples relative to the recorded one; infinity for weights of another form."""
    if len(recorded) != len(found):
        return float("inf")
    one: npt.NDArray[np.float64] = np.array(recorded)
    return float(np.linalg.norm(one - np.array(found)) / max(np.linalg.norm(one), 1e-12))
