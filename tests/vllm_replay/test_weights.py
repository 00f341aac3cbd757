"""Weights are recognised by values of their tensors, although another CPU has rounded differently."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vllm_replay.weights import VALUES, difference, sample_of


def test_some_values_of_every_tensor_are_taken_in_the_order_of_names(tmp_path: Path) -> None:
    save_file({"b": torch.arange(12.0).reshape(3, 4) + 1 / 3, "c": torch.tensor([7.0])}, tmp_path / "2.safetensors")
    save_file({"a": torch.arange(10.0).reshape(2, 5)}, tmp_path / "1.safetensors")
    assert VALUES == 4
    assert sample_of(tmp_path) == [0, 1, 2, 3, 0.333333, 1.33333, 2.33333, 3.33333, 7]


def test_the_difference_is_relative_to_what_was_recorded() -> None:
    assert difference([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.1)
    assert difference([3.0, 4.0], [3.0, 4.0, 0.0]) == float("inf")
