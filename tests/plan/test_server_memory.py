"""Weights and room for sequences on each of a server's GPUs are those that are worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plan.shapes import folder, recipe, small
from spin_trl.plan.devices import DEVICES, Device
from spin_trl.plan.memory import MemoryPlan
from spin_trl.plan.model import PlannedModel
from spin_trl.plan.planning import Plan, Wishes, make_plan, planned_recipe
from spin_trl.plan.server_memory import ServerMemory, server_memory
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.tokens import read_lengths

GIB = 2**30
WEIGHTS = 512 * 64 * 2 + 2 * (64 * 64 * 2 + 64 + 64 * 32 * 2 + 32 * 2 + 3 * 64 * 128 + 2 * 64) + 64
"""Numbers of `small()`: embeddings and head; per layer q and o, biases, k and v, the MLP and two norms; the last norm."""


def plan(path: Path, **settings: Any) -> Plan:
    model = path / "model"
    given = {"engine": "vllm", "bf16": True, **settings}
    source = recipe(path, model if model.is_dir() else folder(model, small(tie_word_embeddings=False)), **given)
    return make_plan(source, [], Wishes(prompt_tokens=50, response_tokens=100), on_gpu=True)


def server(path: Path, **settings: Any) -> ServerMemory:
    """Return the memory of a server, without planning the other phases."""
    model = path / "model"
    given = {"engine": "vllm", "bf16": True, **settings}
    source = recipe(path, model if model.is_dir() else folder(model, small(tie_word_embeddings=False)), **given)
    setup = Setup(planned_recipe(source, []), Sharding(), on_gpu=True)
    found = server_memory(setup, PlannedModel(setup.loaded()), 1.0)
    assert found is not None
    return found


def test_weights_and_keys_and_values_by_hand(tmp_path: Path) -> None:
    """In the trainer's format. 2 x 2 layers x 2 heads x 16 numbers a token; two GPUs have one of the heads each."""
    whole = server(tmp_path)
    assert (whole.weights, whole.token, whole.adapter, whole.merged) == (2 * WEIGHTS, 2 * 2 * 2 * 16 * 2, 0, 0)
    wide = server(tmp_path, bf16=False)
    assert (wide.weights, wide.token) == (2 * whole.weights, 2 * whole.token)
    half = server(tmp_path, tensor_parallel=2)
    assert (half.weights, half.token) == (WEIGHTS, whole.token // 2)
    assert half.step < whole.step


@pytest.mark.parametrize(
    ("settings", "adapter", "is_merged"),
    [
        # q: 8 x (64 + 64) numbers in each of two layers.
        ({"lora_r": 8}, 2 * 2 * 8 * 128, False),
        ({"lora_r": 12}, 2 * 2 * 16 * 128, False),  # vLLM rounds the rank up
        ({"lora_r": 8, "use_dora": True}, 0, True),
        ({"lora_r": 8, "load_in_4bit": True, "vllm_unquantised_base": True}, 2 * 2 * 8 * 128, False),
    ],
    ids=["LoRA", "rounded up", "merged", "4 bits"],
)
def test_an_adapter_is_loaded_next_to_the_weights_or_merged(
    settings: dict[str, Any], adapter: int, is_merged: bool, tmp_path: Path
) -> None:
    found = server(tmp_path, use_peft=True, lora_target_modules=["q_proj"], **settings)
    assert (found.weights, found.adapter, found.merged) == (2 * WEIGHTS, adapter, 2 * WEIGHTS * is_merged)


def test_the_room_is_what_the_share_leaves() -> None:
    """Of 10 GiB, the run's process has 0.6 and the margin is 1: 8.4, of which 3 are taken."""
    held = ServerMemory(weights=2 * GIB, adapter=0, step=GIB, token=2**20)
    tokens = (0.84 * 10 * GIB - 3 * GIB) / 2**20
    assert held.room(Device("mine", 10, 100, 1000)) == int(tokens // 16) * 16
    assert held.room(Device("mine", 4, 100, 1000)) == held.room(Device("mine", 1, 100, 1000)) == 0
    # On a large GPU it is 95 %.
    assert held.room(DEVICES["h200"]) == int((0.95 * 139.7 * GIB - 3 * GIB) / 2**20 // 16) * 16


def test_a_phase_needs_room_for_the_longest_sequence(tmp_path: Path) -> None:
    """Whole blocks of 16 tokens. With transformers, the phase is planned as before."""
    assert ServerMemory(7, 5, 3, 2).parts(17) == {
        "weights": 7, "adapters": 5, "activations": 3, "logits": 0, "KV cache": 64,
    }  # fmt: skip
    source = recipe(tmp_path, folder(tmp_path / "model", small()), engine="vllm", bf16=True)
    for engine in ("vllm", "transformers"):
        found = planned_recipe(source, ["--engine", engine])
        memory = MemoryPlan(Setup(found, Sharding(), on_gpu=True), read_lengths(found))
        assert (memory.server is None) == (engine == "transformers")
        [generate] = memory.phases(only={"generate"})
        longest = 256 * 2 * 2 * 2 * 16 * 2  # `max_length`
        assert (generate.parts["KV cache"] == longest) == (engine == "vllm")


def test_the_merged_model_is_on_disk_while_it_is_served(tmp_path: Path) -> None:
    found = plan(tmp_path, use_peft=True, use_dora=True, lora_target_modules=["q_proj"])
    assert found.disk(found.work(DEVICES["h100"]))["the merged model, while it is served"] == 2 * WEIGHTS
