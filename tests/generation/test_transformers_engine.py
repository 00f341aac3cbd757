"""The transformers engine samples what the model says, ends where it should, and leaves no trace."""

import dataclasses
import math

import pytest
import tiny
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from spin_trl.generation.engine import Sampling
from spin_trl.generation.transformers import TransformersEngine

GREEDY = Sampling(0.0, 1.0, 0, max_new_tokens=24, max_length=None, num_generations=1, batch_size=8, seed=0)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.0)
PAD = 0


def prompts(count: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in lengths]


def greedy_by_hand(model, prompt, eos_ids, limit):
    """One sequence, no cache, no batch: argmax until EOS."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit:
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in eos_ids:
            break
    return ids[len(prompt) :]


def sharpened(architecture="llama"):
    """A tiny model whose greedy answers differ and are far from ties."""
    model = tiny.model(architecture).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 100])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma"])
def test_greedy_answers_are_those_of_each_prompt_alone(architecture, chunk_size):
    """Padding, chunks and dropped rows change nothing."""
    model = sharpened(architecture)
    first = [greedy_by_hand(model, prompt, [], 24) for prompt in prompts()]
    # Ids that occur in the answers end them, some early and some late; so rows are dropped at different times.
    eos_ids = [first[0][2], first[1][9], first[2][17]]
    expected = [greedy_by_hand(model, prompt, eos_ids, 24) for prompt in prompts()]
    engine = TransformersEngine(model, eos_ids, PAD, chunk_size=chunk_size)
    found = engine.generate(prompts(), GREEDY, seed=0)
    assert [response.ids for response in found] == expected
    assert [response.finish_reason for response in found] == [
        "eos" if ids[-1] in eos_ids else "length" for ids in expected
    ]
    assert engine.useful_tokens == sum(map(len, expected))


def test_each_row_has_its_own_limit():
    """`max_length` leaves a long prompt less room than a short one."""
    found = TransformersEngine(sharpened(), [], PAD).generate(
        [[5] * 3, [6] * 10], dataclasses.replace(GREEDY, max_new_tokens=None, max_length=12), seed=0
    )
    assert [len(response.ids) for response in found] == [9, 2]
    assert {response.finish_reason for response in found} == {"length"}


def test_the_same_seed_gives_the_same_answers_and_another_one_others():
    engine = TransformersEngine(tiny.model("llama"), [1], PAD)
    one, again, other = (engine.generate(prompts(), SAMPLED, seed=seed) for seed in (7, 7, 8))
    assert one == again
    assert one != other


def test_nothing_of_the_surroundings_changes():
    """Random state, training mode and the model's own generation config are as they were."""
    model = tiny.model("llama").train()
    own = model.generation_config
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    TransformersEngine(model, [1], PAD).generate(prompts(), SAMPLED, seed=0)
    assert torch.equal(torch.rand(4), expected)
    assert model.training
    assert model.generation_config is own


def test_the_models_own_generation_config_does_not_leak_in():
    """A Qwen that ships with top_k 20 and a repetition penalty is sampled as the run's settings say."""
    plain, opinionated = tiny.model("llama"), tiny.model("llama")
    opinionated.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=5.0, min_new_tokens=20, eos_token_id=9, max_new_tokens=2
    )
    found = [
        TransformersEngine(model, [1], PAD).generate(prompts(), SAMPLED, seed=0) for model in (plain, opinionated)
    ]
    assert found[0] == found[1]


class FixedDistribution(LlamaForCausalLM):
    """Says at every position that token i has probability p_i, whatever the prompt."""

    probabilities = (0.5, 0.3, 0.15, 0.05)

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        logits = torch.full_like(output.logits, -torch.inf)
        logits[..., : len(self.probabilities)] = torch.tensor(self.probabilities).log()
        output.logits = logits
        return output


def fixed() -> FixedDistribution:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return FixedDistribution(LlamaConfig(vocab_size=8, **sizes))


def frequencies(sampling: Sampling, rows: int = 500) -> list[float]:
    """How often each of the four tokens is sampled as the first one."""
    engine = TransformersEngine(fixed(), [7], pad_token_id=7)
    found = engine.generate([[1]] * rows, dataclasses.replace(sampling, max_new_tokens=8), seed=0)
    tokens = [token for response in found for token in response.ids]
    assert len(tokens) == 8 * rows
    return [tokens.count(token) / len(tokens) for token in range(4)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        # p^(1/T) / Z at T = 0.5: squares over 0.3650
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"top_k": 2}, [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        ({"top_p": 0.9}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_sampled_with_the_probabilities_that_the_settings_give_them(settings, expected):
    found = frequencies(dataclasses.replace(SAMPLED, **settings))
    for measured, probability in zip(found, expected, strict=True):
        error = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(measured - probability) <= 4.5 * error


def test_eos_is_kept_if_and_only_if_it_was_sampled():
    """Any id of the list ends an answer; an answer that was cut has none of them."""
    engine = TransformersEngine(fixed(), [2, 3], pad_token_id=7, chunk_size=4)
    found = engine.generate([[1]] * 200, dataclasses.replace(SAMPLED, max_new_tokens=6), seed=0)
    assert {response.ids[-1] for response in found if response.finish_reason == "eos"} == {2, 3}
    for response in found:
        ends = [token for token in response.ids if token in (2, 3)]
        assert len(ends) == (response.finish_reason == "eos")
        assert len(response.ids) == 6 or response.finish_reason == "eos"
    # An answer of 6 tokens is cut with probability 0.8^6 = 0.262.
    assert sum(response.finish_reason == "length" for response in found) / 200 == pytest.approx(0.262, abs=0.12)
