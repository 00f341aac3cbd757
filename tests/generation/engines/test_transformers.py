"""The transformers engine samples from the model's distribution, stops where it should, and changes nothing else."""

import dataclasses
import itertools
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import known_models
import tiny
from messages import logged, refused
from spin_trl.errors import DataError
from spin_trl.generation.engine import Sampling
from spin_trl.generation.engines.transformers import TransformersEngine

pytestmark = pytest.mark.numeric

GREEDY = Sampling(0.0, 1.0, 0, max_new_tokens=24, max_length=None, num_generations=1, batch_size=8, seed=0)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.0)
PAD = 0


def prompts(count: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in lengths]


def greedy_by_hand(model, prompt, eos_ids, limit):
    """Answer one prompt without a cache or a batch: argmax until EOS."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit:
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in eos_ids:
            break
    return ids[len(prompt) :]


def ended(ids, eos_ids):
    """Return an answer up to and including its first EOS."""
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in eos_ids), ids)


def sharpened(architecture="llama", **overrides):
    """Return a tiny model whose greedy answers differ and are far from ties."""
    model = tiny.model(architecture, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def test_no_plan_is_built_for_every_new_token(monkeypatch):
    """cuDNN's attention builds a plan for every key length, so it is switched off. Other kernels are unaffected, and
    it is restored.
    """
    model, enabled, settings = tiny.model(), [], torch.backends.cuda
    forward = model.model.forward

    def spy(*args, **kwargs):
        enabled.append(
            (settings.cudnn_sdp_enabled(), settings.flash_sdp_enabled(), settings.mem_efficient_sdp_enabled())
        )
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", spy)
    assert settings.cudnn_sdp_enabled()
    settings.enable_mem_efficient_sdp(False)
    try:
        TransformersEngine(model, [1], PAD).answer(prompts(), GREEDY, seed=0)
    finally:
        settings.enable_mem_efficient_sdp(True)
    assert set(enabled) == {(False, True, False)}
    assert settings.cudnn_sdp_enabled()


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 100])
def test_greedy_answers_are_those_of_each_prompt_alone(chunk_size):
    """Padding, chunks and dropped rows make no difference."""
    model = sharpened()
    endless = [greedy_by_hand(model, prompt, [], 24) for prompt in prompts()]
    # Ids that occur in the answers end them, some early and some late, so rows are dropped at different times.
    eos_ids = [endless[0][2], endless[1][9], endless[2][17]]
    expected = [ended(ids, eos_ids) for ids in endless]
    engine = TransformersEngine(model, eos_ids, PAD, chunk_size=chunk_size)
    found = engine.answer(prompts(), GREEDY, seed=0)
    assert [response.ids for response in found] == expected
    assert [response.finish_reason for response in found] == [
        "eos" if ids[-1] in eos_ids else "length" for ids in expected
    ]
    assert engine.useful_tokens == sum(map(len, expected))


def test_each_row_has_its_own_limit():
    """`max_length` leaves a long prompt less room than a short one."""
    found = TransformersEngine(sharpened(), [], PAD).answer(
        [[5] * 3, [6] * 10], dataclasses.replace(GREEDY, max_new_tokens=None, max_length=12), seed=0
    )
    assert [len(response.ids) for response in found] == [9, 2]
    assert {response.finish_reason for response in found} == {"length"}


def test_the_same_seed_gives_the_same_answers_and_another_one_others():
    engine = TransformersEngine(tiny.model("llama"), [1], PAD)
    one, again, other = (engine.answer(prompts(), SAMPLED, seed=seed) for seed in (7, 7, 8))
    assert one == again
    assert one != other


def test_nothing_of_the_surroundings_changes():
    """Random state, training mode and the model's own generation config are unchanged."""
    model = tiny.model("llama").train()
    own = model.generation_config
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    TransformersEngine(model, [1], PAD).answer(prompts(), SAMPLED, seed=0)
    assert torch.equal(torch.rand(4), expected)
    assert model.training
    assert model.generation_config is own


def test_the_models_own_generation_config_does_not_leak_in():
    """A Qwen model that ships with top_k 20 and a repetition penalty is sampled with the run's settings."""
    plain, opinionated = tiny.model("llama"), tiny.model("llama")
    opinionated.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=5.0, min_new_tokens=20, eos_token_id=9, max_new_tokens=2
    )
    found = [TransformersEngine(model, [1], PAD).answer(prompts(), SAMPLED, seed=0) for model in (plain, opinionated)]
    assert found[0] == found[1]


class FixedDistribution(LlamaForCausalLM):
    """Model that gives token i probability p_i at every position, for any prompt."""

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
    """Return how often each of the four tokens is sampled first."""
    engine = TransformersEngine(fixed(), [7], pad_token_id=7)
    found = engine.answer([[1]] * rows, dataclasses.replace(sampling, max_new_tokens=8), seed=0)
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


def test_every_row_is_sampled_from_its_own_context():
    """In a bigram model with known probabilities, each transition has its expected frequency, while rows drop out."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(6, 6, generator=generator)
    eos = 5
    engine = TransformersEngine(known_models.bigram(logits), [eos], pad_token_id=0, chunk_size=3)
    starts = [row % 5 for row in range(1500)]
    settings = dataclasses.replace(SAMPLED, temperature=0.8, max_new_tokens=9)
    found = engine.answer([[4] * (start % 3) + [start] for start in starts], settings, seed=0)
    counts = torch.zeros(6, 6, dtype=torch.float64)
    for start, response in zip(starts, found, strict=True):
        for last, token in itertools.pairwise([start, *response.ids]):
            counts[last, token] += 1
    assert counts[eos].sum() == 0, "something was sampled after EOS"
    assert len({len(response.ids) for response in found}) == 9, "rows are meant to drop out at every length"
    visits = counts.sum(dim=1, keepdim=True)[:eos]
    expected = (logits.double() / 0.8).softmax(dim=1)[:eos]
    deviation = (counts[:eos] / visits - expected).abs() / (expected * (1 - expected) / visits).sqrt()
    assert visits.min() > 300
    assert deviation.max() < 4.5


class LimitedMemory(TransformersEngine):
    """An engine on a device whose memory holds a few prompts at a time."""

    most = 3

    def _generate(self, prompts, sampling):
        if len(prompts) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._generate(prompts, sampling)


def test_a_micro_batch_that_does_not_fit_is_sampled_in_halves(caplog):
    """Greedy responses don't change. Sampled ones do, in the same way every time, and say so."""
    model = sharpened()
    whole, limited = (engine(model, [1], PAD) for engine in (TransformersEngine, LimitedMemory))
    greedy = dataclasses.replace(GREEDY, max_new_tokens=8)
    expected = whole.answer(prompts(7), greedy, seed=0)
    found = limited.answer(prompts(7), greedy, seed=0)
    assert [response.ids for response in found] == [response.ids for response in expected]
    assert [response.is_split for response in found] == [True] * 7
    assert not any(response.is_split for response in expected + limited.answer(prompts(3), greedy, seed=0))
    logged(caplog, "7 prompts", "`generation_batch_size`")
    one, again, other = (limited.answer(prompts(7), SAMPLED, seed=seed) for seed in (7, 7, 8))
    assert one == again != other
    assert len({tuple(limited.answer([[5]] * 4, SAMPLED, seed=3)[row].ids) for row in range(4)}) > 1


def test_a_prompt_that_does_not_fit_alone_is_an_error():
    engine = LimitedMemory(sharpened(), [1], PAD)
    engine.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        engine.answer(prompts(4), GREEDY, seed=0)


def test_eos_is_kept_if_and_only_if_it_was_sampled():
    """Any id in the list ends an answer; a truncated answer has none of them."""
    engine = TransformersEngine(fixed(), [2, 3], pad_token_id=7, chunk_size=4)
    found = engine.answer([[1]] * 200, dataclasses.replace(SAMPLED, max_new_tokens=6), seed=0)
    assert {response.ids[-1] for response in found if response.finish_reason == "eos"} == {2, 3}
    for response in found:
        ends = [token for token in response.ids if token in (2, 3)]
        assert len(ends) == (response.finish_reason == "eos")
        assert len(response.ids) == 6 or response.finish_reason == "eos"
    # An answer of 6 tokens is truncated with probability 0.8^6 = 0.262.
    assert sum(response.finish_reason == "length" for response in found) / 200 == pytest.approx(0.262, abs=0.12)


# Covers every kind of cache: full and sliding attention, windows shorter than the text, convolutions, mixtures of
# experts.
ARCHITECTURES = {
    **{name: (name, {}) for name in tiny.architectures()},
    "mistral, short window": ("mistral", {"sliding_window": 6}),
    "gemma2, short window": ("gemma2", {"sliding_window": 6}),
    "cohere2, short window": ("cohere2", {"sliding_window": 6}),
}


# Strict, so that the marks have to be removed once the engine is fixed.
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_each_prompt_as_if_it_were_alone(name: str) -> None:
    """Rows that ended are dropped from the batch and its cache, without affecting the others."""
    architecture, overrides = ARCHITECTURES[name]
    model = sharpened(architecture, **overrides)
    endless = [greedy_by_hand(model, prompt, [], 14) for prompt in prompts(5)]
    eos_ids = [endless[0][1], endless[1][5], endless[2][9]]
    expected = [ended(ids, eos_ids) for ids in endless]
    assert len({len(ids) for ids in expected}) > 1, "all rows end together, so the test shows nothing"
    engine = TransformersEngine(model, eos_ids, PAD, chunk_size=2)
    found = engine.answer(prompts(5), dataclasses.replace(GREEDY, max_new_tokens=14), seed=0)
    assert [response.ids for response in found] == expected
    assert engine.useful_tokens == sum(map(len, expected))
    assert engine.useful_tokens <= engine.computed_tokens < 5 * max(map(len, expected))


def test_a_model_without_a_key_value_cache_runs_to_its_end() -> None:
    """Mamba's state can't be split into rows, but its answers are still right."""
    config = MambaConfig(
        vocab_size=300, hidden_size=16, state_size=4, num_hidden_layers=2, bos_token_id=None, tie_word_embeddings=False
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MambaForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    endless = [greedy_by_hand(model, prompt, [], 8) for prompt in prompts(4)]
    eos_ids = [endless[0][2], endless[1][5]]
    expected = [ended(ids, eos_ids) for ids in endless]
    assert len({len(ids) for ids in expected}) > 1
    engine = TransformersEngine(model, eos_ids, PAD, chunk_size=3)
    found = engine.answer(prompts(4), dataclasses.replace(GREEDY, max_new_tokens=8), seed=0)
    assert [response.ids for response in found] == expected


def test_greedy_answers_are_those_of_generate_row_by_row() -> None:
    """They equal those of transformers' own `generate`, one prompt at a time, with the same ends."""
    model = sharpened()
    endless = [greedy_by_hand(model, prompt, [], 24) for prompt in prompts()]
    eos_ids = [endless[0][2], endless[1][9], endless[2][17]]
    expected = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        settings = GenerationConfig(do_sample=False, eos_token_id=eos_ids, pad_token_id=PAD, max_new_tokens=24)
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        expected.append(whole[0, len(prompt) :].tolist())
    found = TransformersEngine(model, eos_ids, PAD, chunk_size=5).answer(prompts(), GREEDY, seed=0)
    assert [response.ids for response in found] == expected


def test_an_adapters_base_model_keeps_its_generation_config() -> None:
    """The config is later saved with the model, and must not contain the run's sampling settings."""
    base = tiny.model("llama")
    own, written = base.generation_config, base.generation_config.to_dict()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    TransformersEngine(model, [1], PAD).answer(prompts(2), SAMPLED, seed=0)
    assert model.get_base_model().generation_config is own
    assert model.generation_config is own
    assert own.to_dict() == written


def test_a_mixture_of_experts_keeps_its_auxiliary_loss_for_training() -> None:
    """Its router logits are off while it generates, and are restored afterwards."""
    model = tiny.model("mixtral")
    assert model.config.output_router_logits
    TransformersEngine(model, [1], PAD).answer([[5], [6, 7]], SAMPLED, seed=0)
    assert model.config.output_router_logits


def test_nothing_changes_when_generation_fails() -> None:
    """Running out of memory in the middle of a batch leaves the model unchanged."""
    model = tiny.model("llama").train()
    own = model.generation_config

    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    handle = model.model.register_forward_hook(out_of_memory)
    state = torch.get_rng_state()
    with refused(RuntimeError, "memory"):
        TransformersEngine(model, [1], PAD).answer(prompts(2), SAMPLED, seed=0)
    handle.remove()
    assert model.training
    assert model.generation_config is own
    assert torch.get_rng_state().equal(state)


def test_a_key_value_cache_that_can_not_be_built_is_one_message() -> None:
    model = tiny.model("llama")
    model.config.sliding_window = "a"
    with refused(DataError, "config.json", "TypeError"):
        TransformersEngine(model, [1], PAD).answer(prompts(2), SAMPLED, seed=0)


class EveryPrompt(TransformersEngine):
    """An engine that runs a prompt for each of its samples."""

    def _run_equal_prompts_once(self, *arguments):
        pass


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_samples_of_a_prompt_share_its_pass_and_are_the_same(name):
    """The last micro-batch of a prompt may have only some of its samples, and prompts differ in length."""
    architecture, overrides = ARCHITECTURES[name]
    model = tiny.model(architecture, **overrides)
    longer = [prompt + prompt[:3] for prompt in prompts(3) if len(prompt) > 1]
    some = [prompt for prompt, count in zip(longer, (4, 3, 1), strict=False) for _ in range(count)]
    settings = dataclasses.replace(SAMPLED, max_new_tokens=12)
    once, every = (
        engine(model, [1], PAD).answer(some, settings, seed=5) for engine in (TransformersEngine, EveryPrompt)
    )
    assert once == every
    assert len({tuple(response.ids) for response in once}) > 3


def test_a_prompt_is_run_once_for_all_of_its_samples(monkeypatch):
    """Without its last token, with which every sample begins."""
    model, ran = tiny.model("llama"), []
    forward = model.model.forward

    def spy(*args, **kwargs):
        ran.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", spy)
    engine = TransformersEngine(model, [], PAD)
    engine.answer([[5, 6, 7, 8]] * 3 + [[9, 8, 7]] * 3, dataclasses.replace(SAMPLED, max_new_tokens=3), seed=0)
    assert ran == [(2, 3), (6, 1), (6, 1), (6, 1)]
    ran.clear()
    engine.answer([[5, 6, 7, 8], [9, 8, 7]], dataclasses.replace(SAMPLED, max_new_tokens=2), seed=0)
    assert ran == [(2, 4), (2, 1)]
