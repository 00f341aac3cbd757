"""A GPU is recognised by its driver's name."""

import pytest

from spin_trl.plan.devices import like


@pytest.mark.parametrize(
    ("name", "memory", "tflops", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.1, 312, 2039),
        ("NVIDIA A100-SXM4-40GB", 39.4, 312, 1555),
        ("NVIDIA RTX A5000", 23.6, 71, 936),  # an unknown kind: plan with the slowest GPU that has as much memory
        ("NVIDIA L40S", 44.4, 362, 864),
        ("NVIDIA H100 80GB HBM3", 79.2, 989, 3350),
        ("NVIDIA GeForce RTX 4090", 23.5, 165, 1008),
        ("Tesla T4", 14.6, 65, 320),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, memory: float, tflops: float, bandwidth: float) -> None:
    """Throughput and bandwidth are from the data sheet; the memory is the actual one."""
    found = like(name, memory)
    assert (found.name, found.memory) == (name, memory)
    assert (found.tflops, found.bandwidth) == (tflops, bandwidth)
