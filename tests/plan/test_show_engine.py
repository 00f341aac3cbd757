"""A plan shows the engine with its reason, and for vLLM memory, room and rate with their sources."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from messages import names
from plan.shapes import folder, recipe, small
from spin_trl.generation.vllm.choice import EngineChoice
from spin_trl.plan.costs import SERVER_START
from spin_trl.plan.devices import DEVICES, this_cpu
from spin_trl.plan.engine import Here, settle_planned_engine
from spin_trl.plan.memory import MemoryPlan
from spin_trl.plan.planning import Wishes, planned_recipe
from spin_trl.plan.server_rate import ServerRate
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.show_engine import engine_lines
from spin_trl.plan.tokens import read_lengths

RATE = ServerRate(1234.4, "measured in iteration-0")


def lines(
    path: Path,
    gpu: str | None = "h100",
    wishes: Wishes | None = None,
    measured: ServerRate | None = RATE,
    gpus: int = 1,
    **settings: Any,
) -> str:
    """Return the lines on a plan whose phases are not planned."""
    found = planned_recipe(recipe(path, folder(path / "model", small()), **settings), [])
    setup = Setup(found, Sharding("DDP" if gpus > 1 else "NO", gpus), on_gpu=gpu is not None)
    choice = settle_planned_engine(setup, Here())
    memory = MemoryPlan(setup, read_lengths(found).with_means(50, 100))
    rate = measured if memory.server is not None or setup.asks_servers else None
    plan: Any = SimpleNamespace(
        here=Here(),
        setup=setup,
        memory=memory,
        lengths=memory.lengths,
        choice=choice,
        wishes=wishes or Wishes(),
        rate=lambda _: rate,
    )
    return "\n".join(engine_lines(plan, DEVICES[gpu] if gpu else this_cpu()))


def test_with_transformers_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert lines(tmp_path) == ""


@pytest.mark.parametrize("gpu", ["h100", None])
def test_what_auto_has_chosen_is_shown_with_the_reason(gpu: str | None, tmp_path: Path) -> None:
    shown = lines(tmp_path, gpu, engine="auto", vllm_command=["no-such-vllm"])
    assert names(shown, "`engine: auto`", "transformers", "`no-such-vllm --version`" if gpu else "CPU")
    assert names(shown, "`--engine vllm`") == (gpu is not None)  # vLLM may be on the machine with that GPU


def test_auto_may_choose_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spin_trl.plan.engine.choose_engine", lambda *_: EngineChoice("vllm", "It answers 0.31.0."))
    assert names(lines(tmp_path, engine="auto"), "0.31.0", "`engine: auto`", "1 server")


def test_memory_room_and_rate_of_vllm(tmp_path: Path) -> None:
    """256 bytes of keys and values a token on each GPU; rows have at most 256 tokens, and 150 on average."""
    shown = lines(tmp_path, engine="vllm", tensor_parallel=2, bf16=False)
    assert names(shown, "1 server", "256 bytes", "2 GPUs", "h100", "(256)", "(150)", "256 sequences")
    assert names(shown, "1,234", "iteration-0", f"{SERVER_START:.0f} s")


def test_a_rate_that_the_user_gives_is_not_replaced(tmp_path: Path) -> None:
    assert "tokens per second" not in lines(tmp_path, wishes=Wishes(generation_tokens=700.0), engine="vllm")


def test_merged_adapters_and_unquantised_bases_are_shown(tmp_path: Path) -> None:
    shown = lines(
        tmp_path, engine="vllm", use_peft=True, lora_target_modules=["q_proj"], lora_modules_to_save=["lm_head"],
        load_in_4bit=True, vllm_unquantised_base=True,
    )  # fmt: skip
    assert names(shown, "merged", "`vllm_unquantised_base`")


def test_what_a_run_would_be_refused_for_is_shown(tmp_path: Path) -> None:
    shown = lines(tmp_path, engine="vllm", use_peft=True, lora_target_modules=["q_proj"], load_in_4bit=True)
    assert names(shown, "`vllm_unquantised_base: true`")


def test_on_a_cpu_the_run_makes_the_room_itself(tmp_path: Path) -> None:
    assert names(lines(tmp_path, None, engine="vllm", generation_batch_size=7), "CPU", "7 sequences", 256)


SERVERS: dict[str, Any] = {"engine": "server", "server_urls": ["http://localhost:8000"]}


@pytest.mark.parametrize("gpu", ["h100", None])
def test_servers_of_an_unknown_rate_are_said_to_be_that(gpu: str | None, tmp_path: Path) -> None:
    """With what the hours assume instead, and how to say better."""
    shown = lines(tmp_path, gpu, measured=None, **SERVERS)
    assert names(shown, "`engine: server`", "transformers", gpu or "CPU", "`--generation_tokens_per_second`")
    assert names(shown, "no memory", "GPU" if gpu else "machine", "log-probs", "`server_reload`")
    assert "vLLM" not in shown


def test_servers_rates_that_are_measured_or_given_are_used(tmp_path: Path) -> None:
    shown = lines(tmp_path, **SERVERS)
    assert names(shown, "1,234", "iteration-0", "no memory")
    assert "`--generation_tokens_per_second`" not in shown
    shown = lines(tmp_path, wishes=Wishes(generation_tokens=700.0), **SERVERS)
    assert names(shown, 700)
    assert not names(shown, "1,234")


def test_continuous_batching_is_planned_as_fixed_micro_batches(tmp_path: Path) -> None:
    shown = lines(tmp_path, gpus=2, generation_continuous=True, generation_batch_size=48)
    assert names(shown, "48 responses", "`generation_batch_size`", "fewer steps", "(256 tokens)")


def test_continuous_batching_of_fewer_responses_may_take_longer(tmp_path: Path) -> None:
    settings = {"generation_continuous": True, "generation_batch_size": 48, "generation_concurrency": 90}
    shown = lines(tmp_path, gpus=2, **settings)
    assert names(shown, "`generation_concurrency`", 45)
    assert "fewer steps" not in shown


def test_a_rate_that_is_given_for_continuous_batching_replaces_what_is_assumed(tmp_path: Path) -> None:
    shown = lines(tmp_path, None, Wishes(generation_tokens=700.0), generation_continuous=True)
    assert "micro-batches" not in shown
    assert names(shown, "256 responses", "(256 tokens)")  # `generation_concurrency`, on a CPU
