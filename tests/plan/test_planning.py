"""A plan says whether a run fits a GPU, what else would stop it, and what to change so that it fits."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from messages import names, refused
from plan.shapes import folder, qwen, recipe, small
from spin_trl.config.recipe import known_settings
from spin_trl.errors import RecipeError
from spin_trl.plan.devices import DEVICES, Device
from spin_trl.plan.memory import MemoryPlan, Phase
from spin_trl.plan.planning import (
    WORTHWHILE,
    Plan,
    Wishes,
    _change_in_words,
    _changes,
    advise,
    make_plan,
    planned_recipe,
    uses_cpu,
)
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.tokens import read_lengths

MEANS = Wishes(prompt_tokens=50, response_tokens=100)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Return a plan for full fine-tuning of a model with few layers and a large vocabulary."""
    path = tmp_path_factory.mktemp("plan")
    return make_plan(recipe(path, folder(path / "model", qwen(512, 4, 8, 2048))), [], MEANS, on_gpu=True)


def of_memory(count: float) -> Device:
    """Return a GPU with this many bytes of memory."""
    return Device("mine", count / 2**30, 100, 1000)


def test_a_run_fits_where_its_peak_does(plan: Plan) -> None:
    """The comparison is exact to the byte; it fits surely only if it fits with responses of maximum length."""
    assert plan.peak.total == max(phase.total for phase in plan.phases)
    assert plan.worst.total >= plan.peak.total
    assert plan.fits(of_memory(plan.peak.total))
    assert not plan.fits(of_memory(plan.peak.total - 1))
    assert plan.fits_surely(of_memory(plan.worst.total))
    assert not plan.fits_surely(of_memory(plan.worst.total - 1))


@pytest.mark.parametrize(
    ("bf16", "dtype", "parts"),
    [
        (True, torch.float32, ("`bf16: false` and `fp16: true`",)),
        (False, torch.bfloat16, ("`dtype: float16`",)),
        (True, torch.bfloat16, ("`bf16: false` and `fp16: true`", "`dtype: float16`")),
        (False, torch.float32, None),
    ],
)
def test_a_gpu_without_bfloat16_says_what_to_set(
    bf16: bool, dtype: torch.dtype, parts: tuple[str, ...] | None
) -> None:
    planned: Any = SimpleNamespace(setup=SimpleNamespace(args=SimpleNamespace(bf16=bf16), dtype=dtype))
    assert Plan.obstacle(planned, DEVICES["a10"]) is None
    found = Plan.obstacle(planned, DEVICES["t4"])
    assert (found is None) if parts is None else names(str(found), "t4", *parts)


def test_what_makes_a_phases_rows_smaller_are_settings_of_that_phase(plan: Plan) -> None:
    """Only existing settings are suggested: the training batch size does nothing for evaluation."""
    by_phase = {phase.name: plan.smaller_rows(phase) for phase in plan.phases}
    assert {"generate", "train", "evaluate"} <= by_phase.keys()
    assert {name for names in by_phase.values() for name in names} <= known_settings()
    assert "per_device_train_batch_size" in by_phase["train"]
    assert "per_device_train_batch_size" not in by_phase["evaluate"]
    assert "per_device_eval_batch_size" in by_phase["evaluate"]


def test_what_fits_needs_no_advice(plan: Plan) -> None:
    assert advise(plan, plan.peak.total)[0] == []


def test_advice_goes_on_until_the_run_fits(plan: Plan) -> None:
    """Each change adds to those before it and saves something, and the last one is enough."""
    limit = 0.9 * plan.peak.total
    advice, _ = advise(plan, limit)
    peaks = [plan.peak.total, *(one.peak for one in advice)]
    assert all(after <= WORTHWHILE * before for before, after in itertools.pairwise(peaks))
    assert [one.fits for one in advice] == [one.peak <= limit for one in advice]
    assert advice[-1].fits
    assert not any(one.fits for one in advice[:-1])
    assert all(one.costs and names(one.change, one.settings[0]) for one in advice)


def test_advice_may_not_be_enough(plan: Plan) -> None:
    advice, more_gpus = advise(plan, 1)
    assert advice
    assert not advice[-1].fits
    assert more_gpus is None
    assert len({one.settings for one in advice}) == len(advice)  # a setting that is changed twice is listed once


@pytest.mark.parametrize(
    ("settings", "with_4bit"),
    [
        ({}, {}),
        ({"generation_continuous": True}, {"generation_continuous": False}),
        ({"engine": "server", "server_urls": ["http://localhost:8000"]}, {"engine": "transformers"}),
    ],
)
def test_changes_go_with_the_way_in_which_the_run_generates(
    settings: dict[str, Any], with_4bit: dict[str, Any], tmp_path: Path
) -> None:
    """A run is refused quantised weights with servers or continuous batching, which have no `generation_batch_size`."""
    adapter = {"use_peft": True, "lora_target_modules": ["q_proj"]}
    found = planned_recipe(recipe(tmp_path, folder(tmp_path / "model", small()), **adapter, **settings), [])
    memory = MemoryPlan(Setup(found, Sharding(), on_gpu=True), read_lengths(found))
    changes = [change for change, _ in _changes(memory, Phase("generate", {"KV cache": 1}))]
    [quantised] = [change for change in changes if "load_in_4bit" in change]
    assert quantised == {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **with_4bit}
    settable = {name for change in changes for name in change}
    assert ("generation_batch_size" in settable) == (not settings)
    assert ("precompute_ref_batch_size" in settable) == ("engine" in settings)


def test_changes_are_written_as_in_a_recipe() -> None:
    found = _change_in_words(
        {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"], "dtype": "bfloat16"}
    )
    assert found == "use_peft: true, lora_r: 16, lora_target_modules: [all-linear], dtype: bfloat16"


@pytest.mark.parametrize(
    ("written", "overrides", "expected"),
    [
        (None, [], False),
        (True, [], True),
        (False, [], False),
        (None, ["--use_cpu"], True),
        (None, ["--use_cpu=true"], True),
        (True, ["--use_cpu", "false"], False),
        (True, ["--use_cpu", "false", "--use_cpu", "True"], True),
    ],
)
def test_a_recipe_for_a_cpu_says_so(
    written: bool | None, overrides: list[str], expected: bool, tmp_path: Path
) -> None:
    path = recipe(tmp_path, "org/model", **({} if written is None else {"use_cpu": written}))
    assert uses_cpu(path, overrides) is expected


def test_a_recipe_that_is_not_there_is_refused_by_who_reads_it() -> None:
    assert uses_cpu("no such recipe", []) is False


def test_there_is_at_least_one_gpu(tmp_path: Path) -> None:
    with refused(RecipeError, "`--num_gpus`", 0, 1):
        make_plan(recipe(tmp_path, folder(tmp_path / "model", small())), [], Wishes(num_gpus=0), on_gpu=True)
