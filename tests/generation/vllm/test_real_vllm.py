"""The real vLLM accepts the flags, generates what `model.generate` does, and leaves no process behind.

Only with a command in the environment: `VLLM_COMMAND=/envs/vllm/bin/vllm`. A start takes a minute or two on a CPU, so one
server is shared. Recorded answers of this server are in `recorded/`; the other tests use those.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from messages import refused
from spin_trl.errors import LaunchError
from spin_trl.generation.vllm.causes import cause_in
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server, processes_in_session, vllm_version
from spin_trl.generation.vllm.servers import running

COMMAND = shlex.split(os.environ.get("VLLM_COMMAND", ""))
PROMPTS = [[5, 17, 42, 99, 120], [7, 8, 9], [300], list(range(20, 50)), [11, 250, 3, 3, 8, 41, 77], [200] * 5]
NEAR_TIE = 1e-4
"""Nats between two tokens below which rounding decides which is the likelier one."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not COMMAND, reason="VLLM_COMMAND is not set")]


def saved(folder: Path, head_size: int) -> Path:
    """Save a tiny Llama in float32 whose heads have this size."""
    tiny.model("llama", hidden_size=2 * head_size, head_dim=head_size).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def flags_for(folder: Path, **more: Any) -> Flags:
    eager = ["--enforce-eager"]
    return Flags(str(folder), "theta-0", "float32", max_length=64, kv_cache_bytes=64 << 20, more=eager, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and an adapter for it that changes what it answers."""
    folder = tmp_path_factory.mktemp("real vllm")
    saved(folder / "theta-0", 32)
    base = AutoModelForCausalLM.from_pretrained(folder / "theta-0")
    torch.manual_seed(1)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder / "iteration-1")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(flags_for(folder / "theta-0", max_num_seqs=8, lora_rank=8), folder / "vllm.log", COMMAND)
    with running([server], seconds=600):
        assert server._watchdog is not None
        session = server._watchdog.pid
        yield server
    assert processes_in_session(session) == []


def post(server: Server, path: str, body: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port or 0, timeout=120)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    return json.loads(text) if text.startswith("{") else text


def greedy(server: Server, model: str, prompt: list[int]) -> list[int]:
    settings = {"max_tokens": 16, "temperature": 0.0, "ignore_eos": True, "return_token_ids": True}
    [choice] = post(server, "/v1/completions", {"model": model, "prompt": prompt, **settings})["choices"]
    assert choice["prompt_token_ids"] == prompt
    ids: list[int] = choice["token_ids"]
    return ids


def check_greedy(server: Server, name: str, model: Any) -> None:
    """Fail unless the server's most likely tokens are the model's, up to the first near-tie."""
    model.eval()
    for prompt in PROMPTS:
        ids = greedy(server, name, prompt)
        assert len(ids) == 16
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        behind = logps.max(-1).values - logps.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert behind.max() < NEAR_TIE, (prompt, behind)


def test_the_version_is_known() -> None:
    assert vllm_version(COMMAND) is not None


def test_the_models_most_likely_tokens_are_generated(server: Server, folder: Path) -> None:
    check_greedy(server, "theta-0", AutoModelForCausalLM.from_pretrained(folder / "theta-0"))


def test_an_adapter_is_loaded_while_the_server_runs(server: Server, folder: Path) -> None:
    before = greedy(server, "theta-0", PROMPTS[0])
    post(server, "/v1/load_lora_adapter", {"lora_name": "iteration-1", "lora_path": str(folder / "iteration-1")})
    base = AutoModelForCausalLM.from_pretrained(folder / "theta-0")
    check_greedy(server, "iteration-1", PeftModel.from_pretrained(base, str(folder / "iteration-1")))
    assert greedy(server, "iteration-1", PROMPTS[0]) != before
    assert greedy(server, "theta-0", PROMPTS[0]) == before


def test_a_head_size_that_it_does_not_know_is_the_cause(tmp_path: Path) -> None:
    """Without compilation the server is healthy, and fails at the first request."""
    server = Server(flags_for(saved(tmp_path / "model", 24)), tmp_path / "log", COMMAND)
    with refused(LaunchError, 24), running([server], seconds=600):
        pytest.fail("the server was ready")
    cause = cause_in(server.output())
    assert cause is not None
    assert cause.name == "head size"
