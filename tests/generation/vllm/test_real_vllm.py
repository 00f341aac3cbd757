"""The real vLLM accepts the flags, generates what `model.generate` does, and leaves no process behind.

`make test-vllm` sets the command of a real one, `VLLM_COMMAND`; without it, they replay `vllm_replay/recorded/tokens`.
A start of the real one takes a minute or two on a CPU, so one server of each model is shared.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from known_models import fetched_folder
from messages import refused
from real_vllm import vllm_command
from spin_trl.errors import LaunchError
from spin_trl.generation.vllm.causes import cause_in
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server, processes_in_session, vllm_version
from spin_trl.generation.vllm.servers import running

NUM_PROMPTS, NUM_TOKENS = 64, 64
NEAR_TIE = 1e-4
"""Nats between two tokens below which rounding decides which is the likelier one."""
MODELS = ["tiny", "smollm2-135m"]

COMMAND = vllm_command("tokens")

pytestmark = pytest.mark.slow


def saved(folder: Path, head_size: int) -> Path:
    """Save a tiny Llama in float32 whose heads have this size."""
    tiny.model("llama", hidden_size=2 * head_size, head_dim=head_size).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def flags_for(folder: Path, **more: Any) -> Flags:
    eager = ["--enforce-eager"]
    return Flags(str(folder), "theta-0", "float32", max_length=256, kv_cache_bytes=256 << 20, more=eager, **more)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and an adapter for it that changes what it answers."""
    folder = tmp_path_factory.mktemp("real vllm")
    if request.param == "tiny":
        saved(folder / "theta-0", 32)
    else:
        fetched = fetched_folder(request.param)
        if not fetched.is_dir():
            pytest.skip(f"`spin-trl fetch {request.param}` has not been run on this machine")
        (folder / "theta-0").symlink_to(fetched)
    base = AutoModelForCausalLM.from_pretrained(folder / "theta-0")
    torch.manual_seed(1)
    # Weights that are not 0 change the answers; weights of this size leave a pretrained model's answers in its language.
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], lora_alpha=1, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder / "iteration-1")
    return folder


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    """Return questions in the model's chat template, all different and of several lengths."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "theta-0")
    rows = tiny.sft(NUM_PROMPTS, "messages")["messages"]
    texts = [
        f"{messages[0]['content']} {'Say it twice. ' * (number % 5)}{number}" for number, messages in enumerate(rows)
    ]
    chats = [[{"role": "user", "content": text}] for text in texts]
    return [list(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) for chat in chats]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(flags_for(folder / "theta-0", max_num_seqs=16, lora_rank=8), folder / "vllm.log", COMMAND)
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


def greedy(server: Server, model: str, prompts: list[list[int]]) -> list[list[int]]:
    settings = {"max_tokens": NUM_TOKENS, "temperature": 0.0, "ignore_eos": True, "return_token_ids": True}

    def asked(prompt: list[int]) -> list[int]:
        [choice] = post(server, "/v1/completions", {"model": model, "prompt": prompt, **settings})["choices"]
        assert choice["prompt_token_ids"] == prompt
        ids: list[int] = choice["token_ids"]
        return ids

    with ThreadPoolExecutor(16) as requests:
        return list(requests.map(asked, prompts))


def check_greedy(server: Server, name: str, model: Any, prompts: list[list[int]], capsys: Any) -> None:
    """Fail unless every token is the model's most likely one, as in `model.generate`, or nearly as likely; list those."""
    model.eval()
    ties = []
    for prompt, ids in zip(prompts, greedy(server, name, prompts), strict=True):
        assert len(ids) == NUM_TOKENS
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        behind = logps.max(-1).values - logps.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert behind.max() < NEAR_TIE, (prompt, behind)
        ties += [(len(prompt), place, behind[place].item()) for place in behind.nonzero()[:, 0].tolist()]
    with capsys.disabled():
        shown = "".join(
            f"\n  prompt of {length} tokens, token {place}: {nats:.1e} nats" for length, place, nats in ties
        )
        print(f"\n{name}: {len(ties)} of {len(prompts) * NUM_TOKENS:,} tokens at a near-tie{shown}")


def test_the_version_is_known() -> None:
    assert vllm_version(COMMAND) is not None


@pytest.mark.timeout(1_200)
def test_the_models_most_likely_tokens_are_generated(
    server: Server, folder: Path, prompts: list[list[int]], capsys: Any
) -> None:
    check_greedy(server, "theta-0", AutoModelForCausalLM.from_pretrained(folder / "theta-0"), prompts, capsys)


@pytest.mark.timeout(1_200)
def test_an_adapter_is_loaded_while_the_server_runs(
    server: Server, folder: Path, prompts: list[list[int]], capsys: Any
) -> None:
    before = greedy(server, "theta-0", prompts[:1])
    post(server, "/v1/load_lora_adapter", {"lora_name": "iteration-1", "lora_path": str(folder / "iteration-1")})
    base = AutoModelForCausalLM.from_pretrained(folder / "theta-0")
    adapted = PeftModel.from_pretrained(base, str(folder / "iteration-1"))
    check_greedy(server, "iteration-1", adapted, prompts, capsys)
    assert greedy(server, "iteration-1", prompts[:1]) != before
    assert greedy(server, "theta-0", prompts[:1]) == before


def test_a_head_size_that_it_does_not_know_is_the_cause(tmp_path: Path) -> None:
    """Without compilation the server is healthy, and fails at the first request."""
    server = Server(flags_for(saved(tmp_path / "model", 24)), tmp_path / "log", COMMAND)
    with refused(LaunchError, 24), running([server], seconds=600):
        pytest.fail("the server was ready")
    cause = cause_in(server.output())
    assert cause is not None
    assert cause.name == "head size"
