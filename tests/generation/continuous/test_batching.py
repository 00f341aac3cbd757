"""transformers' own continuous batching samples what the settings say, and every request is answered or named."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

import tiny
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.continuous.batching import ContinuousEngine
from spin_trl.generation.engine import MicroBatch, Response, Sampling, UnansweredError
from spin_trl.generation.engines.transformers import TransformersEngine

pytestmark = pytest.mark.numeric

GREEDY = Sampling(0.0, 1.0, 0, max_new_tokens=12, max_length=None, num_generations=1, batch_size=1, seed=0)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.0)


def prompts(count: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in lengths]


def batches(some: list[list[int]], samples: int = 1) -> Iterator[MicroBatch]:
    return (MicroBatch(number, [prompt] * samples, seed=7 + number) for number, prompt in enumerate(some))


def sharpened(**sizes: Any) -> LlamaForCausalLM:
    """Return a tiny model whose greedy answers differ and are far from ties."""
    model = tiny.model("llama", **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def answers(engine: Any, some: list[list[int]], sampling: Sampling, samples: int = 1) -> list[list[Response]]:
    found = dict(engine.generate(batches(some, samples), sampling))
    return [found[number] for number in range(len(some))]


@pytest.mark.parametrize(("at_once", "adapts"), [(2, True), (16, False)], ids=["LoRA", "full"])
def test_greedy_answers_are_those_of_generate(at_once: int, adapts: bool) -> None:
    """With end tokens and limits of each prompt's own, more requests than fit at once, an adapter, and a prompt that is run
    in several parts.
    """
    model: Any = sharpened(max_position_embeddings=512)
    asked = [*prompts(), (prompts()[-1] * 400)[:305]]
    if adapts:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    limits = dataclasses.replace(GREEDY, max_new_tokens=10, max_length=310)
    plain = TransformersEngine(model, [1], 0).answer(asked, limits, seed=0)
    eos = [plain[0].ids[1], plain[2].ids[3]]
    expected = TransformersEngine(model, eos, 0).answer(asked, limits, seed=0)
    assert {response.finish_reason for response in expected} == {"eos", "length"}
    assert len(plain[-1].ids) == 5
    found = answers(ContinuousEngine(model, eos, 0, at_once, longest=310), asked, limits)
    assert found == [[response] for response in expected]


def test_samples_of_a_prompt_differ_and_have_the_given_probabilities() -> None:
    engine = ContinuousEngine(Fixed(tiny.model("llama").config), [7], 0, at_once=64, longest=16)
    found = answers(engine, [[1, 2]] * 25, dataclasses.replace(SAMPLED, top_k=2, max_new_tokens=8), samples=8)
    tokens = [token for responses in found for response in responses for token in response.ids]
    assert len(tokens) == 25 * 8 * 8
    # 0.5 and 0.3 of the two that are kept; 1600 tokens, so the error is 0.0121
    assert set(tokens) == {0, 1}
    assert tokens.count(0) / len(tokens) == pytest.approx(0.5 / 0.8, abs=4.5 * 0.0121)
    assert len({tuple(response.ids) for response in found[0]}) > 1


class Fixed(LlamaForCausalLM):
    """Model that gives token i probability p_i at every position, for any prompt."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        logits = torch.full_like(output.logits, -torch.inf)
        logits[..., :4] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
        output.logits = logits
        return output


def test_nothing_of_the_surroundings_changes_and_the_cache_is_given_back() -> None:
    """Also if it is left early, with requests in progress."""
    model = tiny.model("llama").train()
    own, attention = model.generation_config, model.config._attn_implementation
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    caches: list[Any] = []
    start = model.init_continuous_batching

    def noted(**arguments: Any) -> Any:
        manager = start(**arguments)
        create = manager._create_batch_processor
        manager._create_batch_processor = lambda: (
            caches.append(weakref.ref((made := create()).cache.cache_tensor)) or made
        )
        return manager

    model.init_continuous_batching = noted  # type: ignore[method-assign]
    generator = ContinuousEngine(model, [1], 0, at_once=2, longest=64).generate(batches(prompts()), SAMPLED)
    next(generator)
    generator.close()
    gc.collect()
    assert torch.equal(torch.rand(4), expected)
    assert (model.training, model.generation_config, model.config._attn_implementation) == (True, own, attention)
    assert {cache() for cache in caches} == {None}


class Manager:
    """A manager that answers every request with what it is told, by its name; None: no answer, and its thread ends."""

    def __init__(self, **told: Any) -> None:
        self.told, self.waiting, self.is_stopped = told, [], False

    def warmup(self) -> None: ...

    def start(self) -> None: ...

    def destroy(self) -> None: ...

    def stop(self, **_: Any) -> None:
        self.is_stopped = True

    def is_running(self) -> bool:
        return bool(self.waiting)

    def add_request(self, prompt: list[int], request_id: str, max_new_tokens: int) -> None:
        changes = self.told.get(f"r{request_id[0]}", {})
        if changes is not None:
            usual = {
                "request_id": request_id,
                "prompt_ids": prompt,
                "generated_tokens": [5] * max_new_tokens,
                "error": None,
            }
            self.waiting.append(SimpleNamespace(**{**usual, **changes}))

    def get_result(self, timeout: float) -> Any:
        return self.waiting.pop(0) if self.waiting else None


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ({"error": "CUDA out of memory", "generated_tokens": []}, ("CUDA out of memory",)),
        ({"generated_tokens": [5, 5]}, (2, 12)),
        ({"prompt_ids": [9]}, ("prompt",)),
        (None, ("missing",)),
    ],
    ids=["failed", "cut", "mixed up", "missing"],
)
def test_a_request_without_a_response_is_an_error_after_all_others(
    told: Any, parts: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its micro-batch is named, and nothing more is asked for."""
    model, manager = tiny.model("llama"), Manager(r1=told)
    monkeypatch.setattr(model, "init_continuous_batching", lambda **_: manager, raising=False)
    found: list[int] = []
    with refused(UnansweredError, "1 prompt", *parts) as error:
        for number, _ in ContinuousEngine(model, [1], 0, at_once=3).generate(batches(prompts()), GREEDY):
            found.append(number)
    assert error.value.numbers == [1]  # type: ignore[attr-defined]
    assert found[:2] == [0, 2]
    assert manager.is_stopped


def test_attention_that_can_not_be_computed_so_is_named() -> None:
    model = tiny.model("llama")
    model.set_attn_implementation("flex_attention")
    with refused(RecipeError, "`generation_continuous: true`", "flex_attention", "`attn_implementation`"):
        next(ContinuousEngine(model, [1], 0).generate(batches(prompts()), GREEDY))


def test_nothing_to_do_needs_no_manager() -> None:
    assert [*ContinuousEngine(tiny.model("llama"), [1], 0).generate(iter([]), GREEDY)] == []
