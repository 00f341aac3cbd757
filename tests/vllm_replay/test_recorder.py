"""What a server answers through the recorder is what the server that replays answers later, in another folder and port."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

import tiny
from fake_vllm import fake_vllm
from given_runs import shaken
from messages import refused
from real_vllm import REPLAY
from served_model import served_model
from spin_trl.errors import LaunchError
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.engine import MicroBatch, Response, Sampling
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server, vllm_version
from spin_trl.generation.vllm.servers import running
from vllm_replay.recording import pack, read

SAMPLING = Sampling(1.0, 1.0, 0, 6, None, num_generations=1, batch_size=1, seed=0)

pytestmark = pytest.mark.slow


def server_of(weights: Path, log: Path, command: list[str]) -> Server:
    return Server(Flags(str(weights), "theta-0", "float32", max_length=64, lora_rank=8), log, command)


def answers(server: Server, adapter: Path) -> list[Response]:
    """Return two responses of a server's weights, and one of an adapter for them."""
    found = []
    with running([server]):
        base = CompletionsClient([server.url], "theta-0", [2], ServerKey(server.key))
        base.load_adapter("adapter", str(adapter))
        adapted = CompletionsClient([server.url], "adapter", [2], ServerKey(server.key))
        for client, seed in ((base, 0), (base, 1), (adapted, 0)):
            [(_, [response])] = client.generate([MicroBatch(0, [[5, 6, 7]], seed=seed)], SAMPLING)
            found.append(response)
    return found


def test_a_recorded_server_is_replayed(tmp_path: Path) -> None:
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    weights, adapter = tiny.save(tmp_path / "here" / "weights", tiny.model("llama")), tmp_path / "here" / "adapter"
    shaken(get_peft_model(tiny.model("llama"), lora), 1, 1.0).save_pretrained(adapter)
    real, _ = served_model(tmp_path)
    raw = tmp_path / "some.jsonl"
    recorder = [sys.executable, str(REPLAY), "record", str(raw), *real]
    assert vllm_version(recorder) == "0.31.0+test"
    recorded = answers(server_of(weights, tmp_path / "log", recorder), adapter)
    assert len({tuple(response.ids) for response in recorded}) == 3
    assert str(tmp_path / "here") not in raw.read_text(encoding="utf-8")

    packed = pack(raw)
    (tmp_path / "here").rename(tmp_path / "there")
    there = tmp_path / "there"
    replay = [sys.executable, str(REPLAY), "replay", str(packed)]
    assert vllm_version(replay) == "0.31.0+test"
    assert answers(server_of(there / "weights", tmp_path / "log", replay), there / "adapter") == recorded


def test_how_a_server_ended_is_recorded(tmp_path: Path) -> None:
    weights = tiny.save(tmp_path / "weights", tiny.model("llama"))
    raw = tmp_path / "some.jsonl"
    real = fake_vllm(tmp_path, prints_when_asked=f"{weights}: CUDA error: out of memory")
    command = [sys.executable, str(REPLAY), "record", str(raw), *real]
    with (
        refused(LaunchError, "exit code 1", "CUDA error"),
        running([server_of(weights, tmp_path / "log", command)]),
    ):
        pytest.fail("the server was ready")
    [ended] = read(pack(raw)).exits.values()
    assert ended["exit"] == 1
    assert ended["log"].splitlines()[-1] == "/models/weights: CUDA error: out of memory"


def test_a_server_that_is_told_to_end_has_not_ended_by_itself(tmp_path: Path) -> None:
    weights = tiny.save(tmp_path / "weights", tiny.model("llama"))
    raw = tmp_path / "some.jsonl"
    command = [sys.executable, str(REPLAY), "record", str(raw), *fake_vllm(tmp_path)]
    with running([server_of(weights, tmp_path / "log", command)]):
        pass
    lines = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    assert [line["vllm"] for line in lines if "vllm" in line] == ["0.31.0"]
    assert {line["path"] for line in lines if "path" in line} == {"/health", "/v1/models", "/v1/completions"}
    assert not [line for line in lines if "exit" in line]
