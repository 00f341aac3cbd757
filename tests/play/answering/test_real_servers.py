"""Real vLLM servers that exist already: other weights than those that are to answer are found, with the server's address.

`make test-vllm` sets the command of a real one, `VLLM_COMMAND`; without it, they replay `vllm_replay/recorded/weights`. A
start of a real one takes a minute or two on a CPU, so all tests share four servers. `test_given_servers.py` has these
cases, and others, with servers that compute what they answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from given_runs import LORA, adapted, engine, prepared, shaken, trained
from messages import refused
from real_vllm import vllm_command
from spin_trl.errors import PausedError
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.completions.failures import ServedWeightsError
from spin_trl.generation.completions.weights import WeightsVerdict
from spin_trl.generation.vllm import process
from spin_trl.generation.vllm.flags import Flags
from spin_trl.generation.vllm.process import Server
from spin_trl.generation.vllm.servers import running
from spin_trl.play.answering.reload import name_on_servers
from spin_trl.run.run import Run

KEY = "one-key-for-all-of-them"
VARIABLE = "KEY_OF_THE_TESTS"  # not vLLM's own, by which other tests find the processes of servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@dataclass(frozen=True)
class Given:
    """Folders of weights, and real servers.

    Attributes:
        start, iteration_0, iteration_1: folders of full weights.
        serves_0, serves_1: servers of the iterations' weights.
        rank_16, rank_8: servers of the start's weights, which load adapters up to this rank.
    """

    start: Path
    iteration_0: Path
    iteration_1: Path
    serves_0: Server
    serves_1: Server
    rank_16: Server
    rank_8: Server


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """Start four servers at once, each with a key that the run knows."""
    folder = tmp_path_factory.mktemp("real servers")
    model = tiny.model("llama", hidden_size=64, head_dim=32)
    start, iteration_0, iteration_1 = (
        tiny.save(folder / name, shaken(model, number, 0.3 if number == 0 else 0.1))
        for number, name in enumerate(("start", "iteration-0", "iteration-1"))
    )

    def server(weights: Path, lora_rank: int | None) -> Server:
        flags = Flags(
            str(weights), "tiny", "float32", max_length=256, max_num_seqs=8, kv_cache_bytes=64 << 20,
            lora_rank=lora_rank, more=["--enforce-eager"],
        )  # fmt: skip
        return Server(flags, folder / f"{weights.name}-{lora_rank}.log", vllm_command("weights"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_new_key", lambda: KEY)
        served = server(iteration_0, None), server(iteration_1, None), server(start, 16), server(start, 8)
        with running(served, seconds=1_200):
            yield Given(start, iteration_0, iteration_1, *served)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


def run_at(given: Given, *servers: Server, **settings: object) -> Run:
    """Return a run at some of the servers, with the weights of both iterations."""
    run = prepared(given.start, servers, server_key_variable=VARIABLE, **settings)
    for number, weights in enumerate((given.iteration_0, given.iteration_1)):
        if not run.peft_config:
            model = AutoModelForCausalLM.from_pretrained(weights)
            model.save_pretrained(run.directory.own(f"iteration-{number}") / "model")
    return run


def test_the_right_weights_answer(given: Given) -> None:
    run = run_at(given, given.serves_1)
    served = engine(run, run.model_of("iteration-1")).served
    assert (served["expected"], served["servers"][0]["verdict"]) == ("iteration-1", WeightsVerdict.RIGHT)
    assert served["servers"][0]["nats_a_token"]["iteration-1"] < 1e-3


def test_the_base_served_for_iteration_1_is_found(given: Given) -> None:
    run = run_at(given, given.serves_1, given.rank_8)
    with refused(PausedError, given.rank_8.url, "start", "iteration-1", "vllm serve") as error:
        engine(run, run.model_of("iteration-1"))
    assert f"{given.serves_1.url} serves" not in str(error.value)


def test_iteration_0_served_for_iteration_1_is_found(given: Given) -> None:
    run = run_at(given, given.serves_0, given.serves_1)
    with refused(PausedError, given.serves_0.url, "iteration-0", "iteration-1", "vllm serve") as error:
        engine(run, run.model_of("iteration-1"))
    assert f"{given.serves_1.url} serves" not in str(error.value)


def test_adapters_are_loaded_at_both_endpoints(given: Given) -> None:
    run = run_at(given, given.rank_16, given.rank_8, peft_config=LORA)
    assert engine(run, str(given.start)).client.model == "tiny"
    made = engine(run, trained(run))
    assert made.client.model.startswith("run-iteration-0-")
    assert [one["verdict"] for one in made.served["servers"]] == [WeightsVerdict.RIGHT] * 2


def test_the_wrong_adapter_at_one_of_two_endpoints_is_found(given: Given, tmp_path: Path) -> None:
    """It has the name of the right one, as if it had been loaded from a disk with older files."""
    run = run_at(given, given.rank_16, given.rank_8, peft_config=LORA)
    path, other = trained(run, seed=3, by=0.3), tmp_path / "other"
    shaken(adapted(AutoModelForCausalLM.from_pretrained(given.start)), 8, 1.0).save_pretrained(other)
    client = CompletionsClient([given.rank_8.url], "tiny", [2], ServerKey(KEY))
    client.load_adapter(name_on_servers(run, path), str(other))
    with refused(ServedWeightsError, given.rank_8.url, "iteration-0", "nats") as error:
        engine(run, path)
    assert given.rank_16.url not in str(error.value)


def test_one_of_two_endpoints_that_fails_to_reload_is_named(given: Given) -> None:
    """Its maximum rank is too small."""
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    run = run_at(given, given.rank_16, given.rank_8, peft_config=lora)
    path = run.directory.own("iteration-0") / "model"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(given.start), lora)
    shaken(model, 4, 0.1).save_pretrained(path)
    with refused(ServedWeightsError, given.rank_8.url, "iteration-0", "max_lora_rank") as error:
        engine(run, str(path))
    assert given.rank_16.url not in str(error.value)
