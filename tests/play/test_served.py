"""A run generates with servers that it starts and ends; a stand-in serves its models as vLLM would."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from runs import answers, build, entry, steps
from served_model import served_model
from spin_trl.errors import LaunchError
from spin_trl.generation.engine import Sampling, micro_batch_seed
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.store import GenerationStore
from spin_trl.models.policy import load_policy
from spin_trl.play.served import against_vllm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Llama with heads of a size that vLLM computes on a CPU."""
    model = tiny.model("llama", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    return tiny.save(tmp_path_factory.mktemp("served"), model)


@pytest.mark.slow
@pytest.mark.parametrize("adapts", [False, True], ids=["full", "LoRA"])
def test_a_run_with_servers_of_its_own(adapts: bool, folder: Path, tmp_path: Path) -> None:
    """Two iterations; every phase that answers starts the servers once, with the weights of its own stage."""
    command, starts = served_model(tmp_path)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if adapts else None
    session = build(folder, engine="vllm", vllm_command=command, evaluate_greedy=True, peft_config=lora)
    session.run()
    run = session.state
    assert ("evaluate", "iteration-1") in steps()
    for iteration in (0, 1):
        manifest = GenerationStore(run.directory.generations(f"iteration-{iteration}")).manifest()
        assert (manifest["engine"], manifest["engine_version"], manifest["repeats"]) == ("vllm", "0.31.0+test", False)
        policy = load_policy(run.model_of(run.decisions.opponent(iteration)), run.args).eval()
        engine = TransformersEngine(policy, run.template().eos_ids, 0)
        sampling = dataclasses.replace(Sampling.from_args(run.iteration_args(iteration)), batch_size=1)
        rows, found = run.self_play_rows(), answers("run", f"iteration-{iteration}")
        lengths = [len(ids) for ids in rows["prompt_ids"]]
        order = sorted(range(len(rows)), key=lambda row: (lengths[row], row))
        for number, row in enumerate(order):
            seed = micro_batch_seed(run.args.seed, iteration, number)
            [expected] = engine.answer([rows[row]["prompt_ids"]], sampling, seed)
            assert found[rows[row]["key"], 0] == expected.ids
    # The start's answers, then generation and evaluation of two iterations: sampled and greedy answers in one start.
    told = [json.loads(line) for line in starts.read_text(encoding="utf-8").splitlines()]
    assert len(told) == 5
    assert all("--generation-config" in arguments for arguments in told)
    assert all(("--enable-lora" in arguments) == adapts for arguments in told[2:])
    assert sorted(path.name for path in (run.directory.path / "vllm").iterdir())[0].endswith("-0.log")


def test_a_server_that_does_not_start_ends_the_run_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.write_text("#!/bin/sh\necho 'torch.OutOfMemoryError: CUDA out of memory.'\nexit 1\n", encoding="utf-8")
    script.chmod(0o755)
    session = build(folder, engine="vllm", vllm_command=[str(script)])
    with refused(LaunchError, "memory", "serve"):
        session.run()
    assert entry("prepare", "data")


def test_what_vllm_can_not_do_is_refused_at_the_start(llama_folder: Path) -> None:
    given = {"engine": "vllm", "vllm_command": ["no-such-vllm"], "vllm_args": ["--api-key", "k"]}
    run = build(llama_folder, peft_config=LoraConfig(use_dora=True, task_type="CAUSAL_LM"), **given).state
    found = [*against_vllm(run, AutoModelForCausalLM.from_pretrained(llama_folder).config)]
    assert len(found) == 4
    for reason, part in zip(found, ("`api-key`", "`vllm_command`", "`use_dora`", "head size"), strict=True):
        assert names(reason, part)
    [reason] = against_vllm(build(llama_folder, engine="vllm", vllm_command=[]).state, None)
    assert names(reason, "`vllm_command`")
    assert [*against_vllm(build(llama_folder).state, None)] == []
