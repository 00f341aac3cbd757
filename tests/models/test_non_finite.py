"""Non-finite weights are named, with the file that they came from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from messages import names
from spin_trl.models.non_finite import MOST_NAMED, non_finite_in_words, non_finite_parameters


def small(**values: torch.Tensor) -> nn.Module:
    model = nn.Module()
    for name, value in values.items():
        model.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_value_is_enough(value: float, dtype: torch.dtype) -> None:
    bad = torch.zeros(3, 5, dtype=dtype)
    bad[2, 4] = value
    assert non_finite_parameters(small(good=torch.full((4,), torch.finfo(dtype).max, dtype=dtype), bad=bad)) == ["bad"]


def test_quantised_weights_are_passed_over() -> None:
    """Bytes of 4-bit and 8-bit formats have no NaN, or none that torch can test for."""
    nan_of_float8 = torch.tensor([0x7F], dtype=torch.uint8).view(torch.float8_e4m3fn)
    model = small(four=torch.full((2,), 255, dtype=torch.uint8), eight=nan_of_float8)
    assert non_finite_parameters(model) == []
    assert non_finite_in_words(model) is None


def test_the_first_ones_are_named_and_all_are_counted() -> None:
    bad = {f"w{number}": torch.tensor([math.nan]) for number in range(5)}
    found = non_finite_in_words(small(fine=torch.ones(1), **bad))
    assert found is not None
    assert MOST_NAMED == 3
    assert names(found, "5 parameters", "`w0`", "`w1`", "`w2`", "2 more")
    assert not names(found, "`w3`")
    assert not names(found, "`fine`")


def test_a_weight_is_named_with_its_file(llama_folder: Path, tmp_path: Path) -> None:
    """Of several files, it is the one that holds the weight; the name ends like the file's, without the wrapping. A
    damaged file is ignored.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(llama_folder)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "a-damaged.safetensors").write_bytes(b"{")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    files = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(files) > 1
    found = non_finite_in_words(model)
    assert found is not None
    (index,) = tmp_path.glob("*.index.json")
    (owner,) = {file for file in files if f'"model.norm.weight": "{file}"' in index.read_text(encoding="utf-8")}
    assert names(found, "1 parameter", tmp_path, f"`model.norm.weight` ({owner})")
