"""A run generates with servers that it starts and ends; a stand-in serves its models as vLLM would."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3NextConfig

import tiny
from messages import names, refused
from runs import answers, build, entry, steps
from served_model import served_model
from spin_trl.errors import LaunchError
from spin_trl.generation.continuous.batching import ContinuousEngine
from spin_trl.generation.continuous.worker import Job
from spin_trl.generation.engine import Sampling, micro_batch_seed
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.store import Generations, GenerationStore
from spin_trl.models.policy import load_policy
from spin_trl.play import served
from spin_trl.play.at_hand import at_hand
from spin_trl.play.generate import answer_into
from spin_trl.play.served import against_continuous, against_vllm
from spin_trl.run.run import Run


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


def test_a_model_answers_by_continuous_batching(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded by the worker, once for several sets of prompts. What it answered is final."""
    jobs: list[Job] = []

    @contextlib.contextmanager
    def in_this_process(given: list[tuple[Job, str | None]]) -> Iterator[ContinuousEngine]:
        [(job, devices)] = given
        assert devices is None
        jobs.append(job)
        yield job.engine()

    monkeypatch.setattr(served, "continuous_workers", in_this_process)
    run.play.generation_continuous, run.args.num_generations, run.args.temperature = True, 2, 0.0
    folders = {held_out: run.directory.path / f"answers-{held_out}" for held_out in (False, True)}
    with at_hand(run, run.given_model) as model:
        for held_out, folder in folders.items():
            answer_into(run, model, run.rows(held_out=held_out), folder, 0, "answers")
    [job] = jobs
    longest = max(len(row["prompt_ids"]) for rows in run.answered_rows() for row in rows)
    assert (job.path, job.at_once, job.longest, job.dtype) == (run.given_model, 4, longest + 8, None)
    engine = TransformersEngine(load_policy(run.given_model, run.args).eval(), run.template().eos_ids, 0)
    for held_out, folder in folders.items():
        manifest = GenerationStore(folder).manifest()
        assert (manifest["engine"], manifest["repeats"]) == ("transformers", False)
        found = Generations.load({0: GenerationStore(folder)})
        for row in run.rows(held_out=held_out):
            [expected] = engine.answer([row["prompt_ids"]], Sampling.from_args(run.iteration_args(0)), seed=0)
            assert found[row["key"], 0, 0] == found[row["key"], 0, 1] == expected.ids


def test_what_can_not_be_batched_continuously_is_refused_at_the_start(llama_folder: Path) -> None:
    config = Qwen3NextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    run = build(llama_folder, generation_continuous=True, engine="vllm").state
    run.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    found = [*against_continuous(run, config)]
    for reason, parts in zip(
        found, (("`engine: transformers`",), ("quantised",), ("linear_attention", "qwen3_next")), strict=True
    ):
        assert names(reason, "`generation_continuous: true`", *parts)
    assert [*against_continuous(build(llama_folder, generation_continuous=True).state, None)] == []
    assert [*against_continuous(build(llama_folder).state, config)] == []
