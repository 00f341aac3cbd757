"""A run generates with servers that it starts and ends; a stand-in serves its models as vLLM would."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3NextConfig

import tiny
from messages import names, refused
from runs import answers, build, entry, steps
from served_model import served_model
from spin_trl.errors import LaunchError
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.continuous.batching import ContinuousEngine
from spin_trl.generation.continuous.worker import Job
from spin_trl.generation.engine import MicroBatch, Sampling, micro_batch_seed
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.engines.vllm import VllmEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from spin_trl.generation.vllm.process import Server
from spin_trl.models.digest import digest
from spin_trl.models.policy import load_policy
from spin_trl.play.answering import served
from spin_trl.play.answering.at_hand import at_hand
from spin_trl.play.answering.into_store import answer_into
from spin_trl.play.answering.served import against_continuous, against_vllm, context_length, serve
from spin_trl.run.run import Run


@pytest.mark.slow
@pytest.mark.parametrize("adapts", [False, True], ids=["full", "LoRA"])
def test_a_run_with_servers_of_its_own(adapts: bool, folder: Path, tmp_path: Path) -> None:
    """Two iterations; servers have the weights of the model that answers."""
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
    # The start's answers, also to the training prompts; generation of iteration 1, and the evaluations: sampled and greedy
    # answers in one start.
    told = [json.loads(line) for line in starts.read_text(encoding="utf-8").splitlines()]
    assert len(told) == 4
    assert all("--generation-config" in arguments for arguments in told)
    assert all(("--enable-lora" in arguments) == adapts for arguments in told[1:])
    assert sorted(path.name for path in (run.directory.path / "vllm").iterdir())[0].endswith("-0.log")


def test_a_server_that_does_not_start_ends_the_run_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.write_text("#!/bin/sh\necho 'torch.OutOfMemoryError: CUDA out of memory.'\nexit 1\n", encoding="utf-8")
    script.chmod(0o755)
    session = build(folder, engine="vllm", vllm_command=[str(script)])
    with refused(LaunchError, "memory", "serve"):
        session.run()
    assert entry("prepare", "data")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Start no server of a run. Return those that would have been started."""
    found: list[Server] = []

    @contextlib.contextmanager
    def running(servers: list[Server]) -> Iterator[None]:
        for number, server in enumerate(servers):
            server.port = 8000 + number
        found.extend(servers)
        yield

    monkeypatch.setattr(served, "running", running)
    monkeypatch.setattr(CompletionsClient, "version", lambda _: "0.31.0")
    return found


@pytest.mark.parametrize(
    ("settings", "devices", "sequences", "prompts"),
    [
        ({}, ["0", "1", "2", "3"], 64, 256),
        ({"tensor_parallel": 2, "num_generations": 4}, ["0,1", "2,3"], 512, 256),
        ({"tensor_parallel": 4, "num_generations": 8}, ["0,1,2,3"], 1024, 128),
        ({"tensor_parallel": 2, "vllm_args": ["--max-num-seqs=48"]}, ["0,1", "2,3"], 48, 96),
    ],
)
def test_every_group_of_gpus_gets_a_server_with_what_is_free(
    settings: dict[str, Any], devices: list[str], sequences: int, prompts: int, folder: Path, started: list[Server],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The GPU with the least free memory (70 of 80 GiB, a GiB of which stays free) decides. The command is printed."""
    free = {0: 78, 1: 75, 2: 70, 3: 77}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run = build(folder, engine="vllm", **settings).state
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number] << 30, 80 << 30))
    run.args.use_cpu = False
    with serve(run, str(folder), [1]) as engine:
        assert isinstance(engine, VllmEngine)
    assert engine.client.concurrency == prompts
    assert [server.devices for server in started] == devices
    assert {server.flags.sequences for server in started} == {sequences}
    [memory] = {server.flags.memory_share for server in started}
    assert memory == pytest.approx(69 / 80, abs=0.01)
    assert {server.flags.kv_cache_bytes for server in started} == {None}
    printed = capsys.readouterr().out
    assert re.search(rf"--max-num-seqs[ =]{sequences}\b", printed)
    assert names(printed, "--port 8000", "--gpu-memory-utilization", "--dtype float32")
    assert (f"{len(devices)} servers" in printed) == (len(devices) > 1)
    assert all(server.key not in printed for server in started)


def test_prompts_that_are_longer_than_max_length_fit(
    folder: Path, started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `keep_end` they are kept, and get one token; vLLM refuses what does not fit."""
    rows = Dataset.from_dict({"prompt_ids": [[1] * 100, [1] * 5]})
    monkeypatch.setattr(Run, "answered_rows", lambda _: [rows])
    run = build(folder, engine="vllm").state
    assert context_length(run) == run.args.max_length == 64
    run.args.truncation_mode = "keep_end"
    assert context_length(run) == 101
    with serve(run, str(folder), [1]) as engine:
        assert isinstance(engine, VllmEngine)
    # On a CPU a server works on a micro-batch: other prompts would wait there, and their time limit would run.
    assert run.play.generation_concurrency == 256
    assert engine.client.concurrency == started[0].flags.max_num_seqs == run.args.generation_batch_size == 4
    assert [server.flags.max_length for server in started] == [101]
    run.args.max_length = None
    assert context_length(run) is None


def test_what_vllm_can_not_do_is_refused_at_the_start(llama_folder: Path) -> None:
    given = {"engine": "vllm", "vllm_command": ["no-such-vllm"], "vllm_args": ["--api-key", "k"]}
    lora = LoraConfig(alora_invocation_tokens=[3], task_type="CAUSAL_LM")
    run = build(llama_folder, peft_config=lora, **given).state
    found = [*against_vllm(run, AutoModelForCausalLM.from_pretrained(llama_folder).config)]
    assert len(found) == 4
    for reason, part in zip(
        found, ("`api-key`", "`vllm_command`", "`alora_invocation_tokens`", "head size"), strict=True
    ):
        assert names(reason, part)
    [reason] = against_vllm(build(llama_folder, engine="vllm", vllm_command=[]).state, None)
    assert names(reason, "`vllm_command`")
    assert [*against_vllm(build(llama_folder).state, None)] == []


def test_an_adapter_that_can_be_merged_is_no_reason_against_vllm(folder: Path) -> None:
    lora = LoraConfig(use_dora=True, r=600, modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    run = build(folder, engine="vllm", vllm_command=[sys.executable], peft_config=lora).state
    assert [*against_vllm(run, AutoModelForCausalLM.from_pretrained(folder).config)] == []


def test_the_adapter_of_a_given_model_is_looked_at_too(folder: Path) -> None:
    lora = LoraConfig(alora_invocation_tokens=[3], target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    run = build(model, engine="vllm", vllm_command=[sys.executable], processing_class=tiny.tokenizer()).state
    [reason] = against_vllm(run, None)
    assert names(reason, "`alora_invocation_tokens`")


def test_a_quantised_run_needs_consent_to_an_unquantised_base(folder: Path) -> None:
    given = {"engine": "vllm", "vllm_command": [sys.executable]}
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    quantised = BitsAndBytesConfig(load_in_4bit=True)
    for allowed in (False, True):
        session = build(
            folder, peft_config=adapter, quantization_config=quantised, vllm_unquantised_base=allowed, **given
        )
        reasons = [*against_vllm(session.state, None)]
        assert len(reasons) == (not allowed)
        assert all(names(reason, "`vllm_unquantised_base: true`", "`engine: transformers`") for reason in reasons)


def test_the_servers_of_a_merged_adapter_load_no_adapter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of another adapter do. The merged model is there for as long as they run."""
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    started: list[tuple[str, int | None, bool]] = []

    @contextlib.contextmanager
    def running(servers: list[Server]) -> Iterator[None]:
        for server in servers:
            server.port, flags = 1, server.flags
            started.append((flags.dtype, flags.lora_rank, Path(flags.model).is_dir()))
        yield

    monkeypatch.setattr(served, "running", running)
    monkeypatch.setattr(CompletionsClient, "load_adapter", lambda *_: None)
    monkeypatch.setattr(CompletionsClient, "version", lambda _: "0.31.0")
    for use_dora in (False, True):
        config.use_dora = use_dora
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "adapter")
        with serve(build(folder, engine="vllm").state, str(tmp_path / "adapter"), [1]) as engine:
            assert engine.version == "0.31.0"
    assert started == [("float32", 4, True), ("float32", None, True)]
    assert list(Path("run", "vllm").glob(".merged*")) == []


@pytest.mark.slow
def test_a_merged_adapter_is_served_as_a_whole_model(folder: Path, tmp_path: Path) -> None:
    """The server gets no adapter, and gives the answers of the adapter's model."""
    command, starts = served_model(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    adapter = str(tmp_path / "adapter")
    model.save_pretrained(adapter)
    run = build(folder, engine="vllm", vllm_command=command).state
    sampling = dataclasses.replace(Sampling.from_args(run.iteration_args(0)), temperature=0.0)
    with serve(run, adapter, [1]) as engine:
        [(_, [found])] = engine.generate([MicroBatch(0, [[5, 9, 17]], 0)], sampling)
    [told] = [json.loads(line) for line in starts.read_text(encoding="utf-8").splitlines()]
    assert "--enable-lora" not in told
    assert not Path(told[1]).exists()
    [expected] = TransformersEngine(load_policy(adapter, run.args).eval(), [1], 0).answer([[5, 9, 17]], sampling, 0)
    assert found.ids == expected.ids


@pytest.mark.slow
def test_a_quantised_run_with_an_unquantised_base_and_a_merged_adapter(folder: Path, tmp_path: Path) -> None:
    """The manifest has the digest of the quantised model, which training computes with, and says what generated."""
    command, starts = served_model(tmp_path)
    lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    session = build(
        folder,
        engine="vllm",
        vllm_command=command,
        vllm_unquantised_base=True,
        num_iterations=1,
        peft_config=lora,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
    )
    session.run()
    run = session.state
    answers_of = {
        "start": run.directory.generations("iteration-0"),
        "iteration-0": run.directory.held_out("iteration-0") / "sampled",
    }
    for stage, store in answers_of.items():
        manifest = GenerationStore(store).manifest()
        assert (manifest["engine"], manifest["unquantised_base"]) == ("vllm", True)
        policy = load_policy(run.model_of(stage), run.args, run.quantization_config)
        assert manifest["model"] == digest(policy, definition=run.definition)
    told = [json.loads(line) for line in starts.read_text(encoding="utf-8").splitlines()]
    assert all("--enable-lora" not in arguments for arguments in told)
    assert [".merged-" in arguments[1] for arguments in told] == [False, True]
    card = (run.directory.model("iteration-0") / "README.md").read_text(encoding="utf-8")
    assert names(card, "vllm 0.31.0+test", "unquantised")
    assert list(run.directory.path.glob("vllm/.*")) == []


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
