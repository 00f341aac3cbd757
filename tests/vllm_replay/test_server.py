"""The server that replays is started and ended as vLLM is, knows its weights, and refuses what was not recorded."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from messages import refused
from real_vllm import REPLAY
from spin_trl.errors import LaunchError
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.completions.failures import RefusedRequestError
from spin_trl.generation.completions.request import request_body
from spin_trl.generation.engine import MicroBatch, Sampling
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server, vllm_version
from spin_trl.generation.vllm.servers import running
from vllm_replay.recording import COMPLETE, LOAD, MODELS, pack

SAMPLING = Sampling(0.0, 1.0, 0, 2, None, num_generations=1, batch_size=1, seed=0)

pytestmark = pytest.mark.slow


def weights(folder: Path, *values: float) -> Path:
    folder.mkdir()
    save_file({"weight": torch.tensor([values])}, folder / "model.safetensors")
    return folder


def completion(of: str, ids: list[int], **asked: Any) -> dict[str, Any]:
    choice = {"index": 0, "token_ids": ids, "prompt_token_ids": asked["prompt"], "finish_reason": "length", "text": ""}
    return recorded(of, "POST", COMPLETE, asked, json.dumps({"choices": [choice]}))


def recorded(of: str, method: str, path: str, asked: Any, answer: str, status: int = 200) -> dict[str, Any]:
    return {
        "of": of, "rank": 8, "method": method, "path": path, "asked": asked, "status": status,
        "type": "application/json", "answer": answer,
    }  # fmt: skip


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the command that replays answers of weights, an adapter for them, and weights that vLLM could not run."""
    ready = {"model": "recorded", "prompt": [0], "max_tokens": 1, "temperature": 0.0}
    ours = json.loads(request_body("recorded", MicroBatch(0, [[5, 6]], seed=0), SAMPLING, [2]))
    adapter = {"lora_name": "recorded-adapter", "lora_path": "/models/adapter"}
    models = {"data": [{"id": "recorded", "root": "/models/recorded", "parent": None, "max_model_len": 64}]}
    lines = [
        {"vllm": "0.31.0"},
        {"weights": "base", "sample": [1.0, 2.0]},
        {"weights": "adapter", "sample": [-1.0, 1.0]},
        {"weights": "broken", "sample": [9.0]},
        *(recorded(of, "GET", MODELS, None, json.dumps(models)) for of in ("base", "broken")),
        *(recorded(of, "GET", "/health", None, "") for of in ("base", "broken")),
        completion("base", [7], **ready),
        completion("base", [10, 11], **ours),
        completion("adapter", [20, 21], **ours),
        recorded("adapter", "POST", LOAD, adapter, "Success: LoRA adapter 'recorded-adapter' added successfully."),
        {"of": "broken", "exit": 3, "log": "Head size 24 is not supported by PagedAttention."},
    ]
    raw = tmp_path / "some.jsonl"
    raw.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [sys.executable, str(REPLAY), "replay", str(pack(raw))]


def server_of(folder: Path, command: list[str]) -> Server:
    return Server(Flags(str(folder), "theta-0", "float32", max_length=64, lora_rank=8), folder / "log", command)


@pytest.fixture
def server(command: list[str], tmp_path: Path) -> Iterator[Server]:
    server = server_of(weights(tmp_path / "weights", 1.0001, 2.0), command)
    with running([server]):
        yield server


def client_of(server: Server, model: str) -> CompletionsClient:
    return CompletionsClient([server.url], model, [2], ServerKey(server.key))


def ids(client: CompletionsClient, prompt: list[int]) -> list[int]:
    [(_, [response])] = client.generate([MicroBatch(0, [prompt], seed=0)], SAMPLING)
    return response.ids


def test_weights_and_a_loaded_adapter_answer_as_recorded(server: Server, tmp_path: Path) -> None:
    client = client_of(server, "theta-0")
    assert ids(client, [5, 6]) == [10, 11]
    client.load_adapter("adapter-3", str(weights(tmp_path / "adapter", -1.0, 1.0)))
    assert ids(client_of(server, "adapter-3"), [5, 6]) == [20, 21]
    [models] = client.available()[0].values()
    assert [(one.name, one.parent) for one in models] == [("theta-0", None), ("adapter-3", "theta-0")]


def test_what_was_not_recorded_is_refused(server: Server, tmp_path: Path) -> None:
    client = client_of(server, "theta-0")
    with refused(RefusedRequestError, 404, "[5, 7]", "`make test-vllm RECORD=1`"):
        ids(client, [5, 7])
    with refused(RefusedRequestError, 404, "some.jsonl.gz"):
        client.load_adapter("adapter-3", str(weights(tmp_path / "adapter", 1.0, -1.0)))
    with refused(RefusedRequestError, 401):
        CompletionsClient([server.url], "theta-0", [2], ServerKey("another")).available()


def test_weights_that_vllm_could_not_run_end_the_server_as_recorded(command: list[str], tmp_path: Path) -> None:
    server = server_of(weights(tmp_path / "weights", 9.0), command)
    with refused(LaunchError, "exit code 3", "Head size 24"), running([server]):
        pytest.fail("the server was ready")


def test_the_version_is_that_of_the_recorded_server(command: list[str]) -> None:
    assert vllm_version(command) == "0.31.0"
