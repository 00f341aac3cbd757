"""The engine hands a store's work to servers, and what they return to the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from completion_server import EOS, CompletionServer, answered, serving
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.completions.failures import NoEndpointError
from spin_trl.generation.completions.waiting import Patience
from spin_trl.generation.engine import MicroBatch, Sampling, engine_names, engine_of, micro_batch_seed
from spin_trl.generation.engines.vllm import VllmEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore


def test_every_prompt_is_asked_once_and_its_samples_together(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"key": list("abcde"), "prompt_ids": [[row + 3] * (row + 1) for row in range(5)]})
    sampling = Sampling(0.7, 0.9, 20, max_new_tokens=4, max_length=None, num_generations=2, batch_size=64, seed=5)
    store = GenerationStore(tmp_path / "store")
    with serving(CompletionServer()) as server:
        engine = VllmEngine(CompletionsClient([server.url], "tiny", [EOS]), "0.31.0")
        generate(engine, rows, store, sampling, Asked("d", "t", "m"), iteration=1, disable_progress=True)
    assert len(server.bodies) == 5
    assert all(
        (body["n"], body["temperature"], body["top_p"], body["top_k"]) == (2, 0.7, 0.9, 20) for body in server.bodies
    )
    found = Generations.load({1: store})
    for row in range(5):  # sorted by length, which is the order of the rows
        seed = micro_batch_seed(5, 1, row)
        for sample in range(2):
            assert found["abcde"[row], 1, sample] == answered(rows[row]["prompt_ids"], seed + sample, 4)
    assert store.manifest()["engine_version"] == "0.31.0"


def test_a_trainer_alone_has_no_servers() -> None:
    assert "vllm" in engine_names()
    with refused(RecipeError, "`engine: vllm`", "spin-trl run"):
        engine_of("vllm")


def test_why_servers_have_ended_is_part_of_the_message() -> None:
    quick = Patience(connect=0.5, failures=1, first=0.005, longest=0.01, gone=0.05)
    client = CompletionsClient(["http://127.0.0.1:9"], "tiny", [EOS], patience=quick)
    engine = VllmEngine(client, "0.31.0", lambda: ["exit code 137: vllm/gpu-1-0.log"])
    sampling = Sampling(1.0, 1.0, 0, max_new_tokens=4, max_length=None, num_generations=1, batch_size=1, seed=5)
    with refused(NoEndpointError, "127.0.0.1:9", "exit code 137", "vllm/gpu-1-0.log"):
        [*engine.generate([MicroBatch(0, [[3]], 0)], sampling)]


@pytest.mark.parametrize("version", ["0.31.0", None])
def test_the_version_is_the_servers_own(version: str | None) -> None:
    with serving(CompletionServer(version=version)) as server:
        assert CompletionsClient([server.url], "tiny", [EOS]).version() == (version or "unknown")
