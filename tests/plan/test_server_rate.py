"""The rate of vLLM's servers is what the run has measured, or a stated one that is compared with a published measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

import tiny
from messages import names
from plan.shapes import folder, recipe, small
from spin_trl.plan.costs import SERVER_START
from spin_trl.plan.devices import DEVICES, Device, speed_of
from spin_trl.plan.engine import Here
from spin_trl.plan.memory import MemoryPlan
from spin_trl.plan.planning import Plan, Wishes, make_plan, planned_recipe
from spin_trl.plan.server_memory import ServerMemory
from spin_trl.plan.server_rate import measured_rate, num_servers, sequences_at_once, stated_rate
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.tokens import read_lengths
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal, Step

LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=131072,
)  # fmt: skip


def planned(path: Path, config: Any = None, **settings: Any) -> str:
    """Return a recipe."""
    model = path / "model"
    there = model if model.is_dir() else folder(model, config or small())
    return recipe(path, there, **{"engine": "vllm", "max_length": 2048, **settings})


def plan(path: Path, here: Here | None = None, **settings: Any) -> Plan:
    wishes = Wishes(prompt_tokens=1024, response_tokens=128)
    return make_plan(planned(path, **settings), [], wishes, on_gpu=True, here=here or Here())


def memory(path: Path, config: Any = None, gpus: int = 1, **settings: Any) -> MemoryPlan:
    """Return a memory plan, without planning its phases."""
    found = planned_recipe(planned(path, config, **settings), [])
    setup = Setup(found, Sharding("DDP" if gpus > 1 else "NO", gpus), on_gpu=True)
    return MemoryPlan(setup, read_lengths(found).with_means(1024, 128))


@pytest.mark.parametrize(("at_once", "measured"), [(1, 75), (8, 6.6 * 75)])
def test_the_stated_rate_is_near_a_published_one(at_once: int, measured: float, tmp_path: Path) -> None:
    """Llama-3.1-8B in bfloat16 on an A100 with 40 GB, vLLM 0.23, 1,024 tokens in and 128 out: 75 tokens per second with
    one sequence, 6.6 times as many with eight (https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on).
    """
    adapter = {"use_peft": True, "lora_target_modules": ["q_proj"]}
    found = memory(
        tmp_path, LLAMA_8B, bf16=True, dtype="bfloat16", max_length=1152, generation_concurrency=at_once, **adapter
    )
    device = DEVICES["a100-40"]
    rate = stated_rate(found, device, speed_of(device, found.setup, found.replica))
    assert rate.at_once == at_once
    assert measured / 2 < rate.tokens < 2 * measured
    assert names(rate.source, "johnmusgrave.com", "75%", 1555)


@pytest.mark.parametrize(
    ("setting", "starts"), [("never", [1, 1, 1, 1, 1]), ("start", [1, 0, 1, 1, 1]), ("always", [1, 0, 1, 0, 1])]
)
def test_hours_follow_from_the_rate_and_the_starts_of_the_servers(
    setting: str, starts: list[int], tmp_path: Path
) -> None:
    """The start's evaluation, and generation and evaluation of two iterations."""
    found = plan(tmp_path, evaluate_greedy=True, generate_ahead=setting, num_iterations=2)
    rate = found.rate(device := DEVICES["h100"])
    assert rate is not None
    start, *iterations = found.work(device)
    answers = 2 * 13 * 128 / rate.tokens  # of held-out prompts, sampled and greedy
    planned = [start.seconds["evaluate"] - answers]
    for iteration in iterations:
        planned += [iteration.seconds["generate"] - iteration.sampled / rate.tokens]
        planned += [iteration.seconds["evaluate"] - answers]
    assert planned == pytest.approx([number * SERVER_START for number in starts], abs=1)
    assert ";" not in found.speed(device).assumed  # only of training


def test_the_retention_set_is_answered_in_the_same_start(tmp_path: Path) -> None:
    """It costs its answers and its log-probs; with no held-out set, it needs the start itself."""
    seconds = {}
    for name, settings in {
        "none": {},
        "both": {"retain_name": _retained(tmp_path), "retain_scorer": "exact_match"},
        "retention": {"retain_name": _retained(tmp_path), "retain_scorer": "exact_match", "held_out_fraction": 0.0},
    }.items():
        seconds[name] = plan(tmp_path, **settings).work(DEVICES["h100"])[1].seconds["evaluate"]
    assert 0 < seconds["both"] - seconds["none"] < 10
    assert SERVER_START < seconds["retention"] < SERVER_START + 10


def _retained(folder: Path) -> str:
    return str(tiny.write_jsonl(folder / "retained.jsonl", tiny.sft(4)))


@pytest.mark.parametrize(
    ("gpus", "settings", "servers", "at_once"),
    [(1, {}, 1, 256), (4, {}, 4, 64), (4, {"tensor_parallel": 2}, 2, 128), (1, {"tensor_parallel": 4}, 1, 256)],
)
def test_servers_share_the_sequences(
    gpus: int, settings: dict[str, Any], servers: int, at_once: int, tmp_path: Path
) -> None:
    found = memory(tmp_path, gpus=gpus, **settings)
    assert num_servers(found) == servers
    assert sequences_at_once(found, DEVICES["h100"]) == at_once


def test_no_more_sequences_than_fit(tmp_path: Path) -> None:
    """Of 10 GiB, 5.4 are left for sequences of 1,152 MiB each, though 256 are asked for; there is at least one."""
    found = memory(tmp_path)
    found.server = ServerMemory(weights=2 * 2**30, adapter=0, step=2**30, token=2**20)
    assert sequences_at_once(found, Device("mine", 10, 100, 1000)) == 4
    assert sequences_at_once(found, Device("mine", 1, 100, 1000)) == 1


def made(path: Path) -> RunDirectory:
    """Return a run that has generated 600 tokens in 30 s with vLLM on an H100, and more with others."""
    directory = RunDirectory(path / "run")
    directory.claim("continue")
    directory.own("journal.jsonl")
    journal = Journal(directory.journal)
    entries = [
        ("vllm", "h100", 200, 10.0),
        ("vllm", "h100", 400, 20.0),
        ("transformers", "h100", 9, 9.0),
        ("vllm", "l4", 9, 9.0),
        ("server", "CPU", 900, 20.0),
    ]
    rest = {"dataset": "", "template": "", "model": "", "iteration": 0, "sampling": {}, "num_rows": 1, "num_shards": 1}
    for number, (engine, device, tokens, seconds) in enumerate(entries):
        stage = f"iteration-{number}"
        store = directory.own(stage) / "generations"
        store.mkdir(parents=True)
        (store / "generations.json").write_text(json.dumps({"engine": engine, **rest}), encoding="utf-8")
        took = {"tokens": tokens, "work_seconds": seconds, "seconds": 99.0, "device": device}
        journal.append(Step.GENERATE, stage, opponent="start", **took)
    return directory


def test_what_the_run_has_measured_comes_first(tmp_path: Path) -> None:
    directory, device = made(tmp_path), DEVICES["h100"]
    rate = measured_rate(directory, device)
    assert rate is not None
    assert plan(tmp_path, here=Here(directory)).rate(device) == rate
    assert rate.tokens == 600 / 30
    assert names(rate.source, "iteration-0", "iteration-1", directory.path)
    assert not names(rate.source, "iteration-2")


def test_without_a_measurement_there_is_none(tmp_path: Path) -> None:
    directory = made(tmp_path)
    assert measured_rate(None, DEVICES["h100"]) is None
    assert measured_rate(RunDirectory(tmp_path / "none"), DEVICES["h100"]) is None
    assert measured_rate(directory, DEVICES["t4"]) is None
    (directory.generations("iteration-3") / "generations.json").unlink()
    assert measured_rate(directory, DEVICES["l4"]) is None


def test_servers_that_exist_already_have_a_rate_once_it_is_measured(tmp_path: Path) -> None:
    """It is that of all servers, on whatever device the run was; before it is known, hours are those of transformers."""
    servers: dict[str, Any] = {"engine": "server", "server_urls": ["http://localhost:8000"], "num_iterations": 1}
    device, directory = DEVICES["h100"], made(tmp_path)
    before, after = plan(tmp_path, **servers), plan(tmp_path, Here(directory), **servers)
    assert before.rate(device) is None
    rate = after.rate(device)
    assert rate is not None
    assert (rate.tokens, rate.at_once) == (45, None)
    assert ";" in before.speed(device).assumed
    assert ";" not in after.speed(device).assumed
    _, unknown = before.work(device)
    _, known = after.work(device)
    alone = plan(tmp_path, engine="transformers", num_iterations=1).work(device)[1]
    assert unknown.seconds["generate"] == alone.seconds["generate"]
    assert known.seconds["generate"] == pytest.approx(known.sampled / 45)


def test_a_given_rate_is_that_of_all_servers(tmp_path: Path) -> None:
    """However many processes train."""
    recipe = planned(tmp_path, engine="server", server_urls=["http://localhost:8000"])
    wishes = Wishes(num_gpus=4, prompt_tokens=1024, response_tokens=128, generation_tokens=500.0)
    found = make_plan(recipe, [], wishes, on_gpu=True).work(DEVICES["h100"])[1]
    assert found.seconds["generate"] == pytest.approx(found.sampled / 500)
