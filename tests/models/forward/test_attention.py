"""Attention over unique tokens equals attention over every row, with FlexAttention's mask and with gathered rows."""

import locale
import random
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import tiny
from batches import Batch, batches, row_numbers, seen
from spin_trl.models.forward.attention import ATTENTION_BLOCK, IMPLEMENTATIONS, attend, attention_inputs, block_mask
from spin_trl.models.forward.layout import Layout, lay_out

pytestmark = pytest.mark.numeric

HEADS, DIMENSION, SCALING = 4, 8, 0.3

quick = settings(max_examples=50, deadline=None)


def long_batch(seed: int, num_branches: int) -> Batch:
    """Return three pairs of rows that are longer than a block of the mask, at every alignment to it."""
    draw = random.Random(seed)
    rows: list[list[list[int]]] = [[] for _ in range(num_branches)]
    begins: list[list[int]] = [[] for _ in range(num_branches)]
    for prompt_length in (300, 5, 129):
        prompt = draw.choices(range(50), k=prompt_length)
        for branch in range(num_branches):
            rows[branch].append(prompt + draw.choices(range(50), k=draw.randint(100, 200)))
            begins[branch].append(prompt_length)
    return Batch(rows, begins)


LONG = [long_batch(0, 2), long_batch(1, 3)]

SHORT = [
    Batch([[[1, 2, 3, 4], [5, 6]], [[1, 2, 3, 5, 6], [5, 6]]], [[2, 1], [2, 1]], extra=2),
    Batch([[[1, 2]], [[1]], [[1, 2, 3]]], [[1], [1], [1]]),
    Batch([[[1, 2, 3], [4]], [[7, 8], [5, 6, 7]]], [[0, 0], [0, 1]]),
    Batch([[[1]], [[1]]], [[1], [1]]),
]
"""Shared and unshared ends, a response that begins the other one, nothing in common, and a single token."""


def square(batch: Batch, layout: Layout) -> torch.Tensor:
    """Return whether a unique token must see another, shape (tokens, tokens), computed from the rows."""
    expected = seen(batch, layout)
    result = torch.zeros(len(expected), len(expected), dtype=torch.bool)
    for number, others in enumerate(expected):
        result[number, others] = True
    return result


def blocks(counts: torch.Tensor | None, indices: torch.Tensor | None) -> set[tuple[int, int]]:
    """Return the blocks in a mask's lists, as (block of the first index, block of the second)."""
    assert counts is not None
    assert indices is not None
    listed = zip(counts[0, 0].tolist(), indices[0, 0].tolist(), strict=True)
    return {(first, second) for first, (count, row) in enumerate(listed) for second in row[:count]}


def assert_mask_is(mask: BlockMask, expected: torch.Tensor) -> None:
    """Check a mask token by token and block by block: full blocks are seen completely, unlisted ones not at all."""
    tokens = len(expected)
    numbers, zero = torch.arange(tokens), torch.tensor(0)
    assert torch.equal(mask.mask_mod(zero, zero, numbers[:, None], numbers[None]), expected)
    assert mask.seq_lengths == (tokens, tokens)
    assert mask.BLOCK_SIZE == (ATTENTION_BLOCK, ATTENTION_BLOCK)
    partial, full = blocks(mask.kv_num_blocks, mask.kv_indices), blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not partial & full
    for first in range(-(-tokens // ATTENTION_BLOCK)):
        for second in range(-(-tokens // ATTENTION_BLOCK)):
            part = expected[
                first * ATTENTION_BLOCK : (first + 1) * ATTENTION_BLOCK,
                second * ATTENTION_BLOCK : (second + 1) * ATTENTION_BLOCK,
            ]
            is_whole = part.shape == (ATTENTION_BLOCK, ATTENTION_BLOCK) and bool(part.all())
            assert ((first, second) in full) == is_whole
            assert ((first, second) in partial) == (bool(part.any()) and not is_whole)
    # The backward pass goes through the same blocks by their keys.
    assert blocks(mask.q_num_blocks, mask.q_indices) == {(second, first) for first, second in partial}
    assert blocks(mask.full_q_num_blocks, mask.full_q_indices) == {(second, first) for first, second in full}


@quick
@given(batches())
def test_flex_attentions_mask_is_what_the_rows_see(batch: Batch) -> None:
    layout = batch.lay_out()
    assert_mask_is(block_mask(layout), square(batch, layout))


@pytest.mark.parametrize("batch", LONG, ids=["two branches", "three branches"])
def test_long_rows_are_cut_into_blocks(batch: Batch) -> None:
    """Some 1,200 tokens give blocks that are seen completely, in part and not at all."""
    layout = batch.lay_out()
    mask, expected = block_mask(layout), square(batch, layout)
    assert_mask_is(mask, expected)
    partial, full = blocks(mask.kv_num_blocks, mask.kv_indices), blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert partial
    assert full
    assert len(partial) + len(full) < (len(expected) / ATTENTION_BLOCK) ** 2 / 2


class Layer(torch.nn.Module):
    """Stand-in with the attributes of an attention layer that attention uses."""

    is_causal = True

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def tokens_of(layout: Layout, groups: int) -> list[torch.Tensor]:
    """Return random query, key and value for every unique token, in double precision, and a weight for every result."""
    generator = torch.Generator().manual_seed(7)
    count = layout.source.numel()

    def random_for(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, count, DIMENSION, dtype=torch.float64, generator=generator)

    return [random_for(HEADS), random_for(HEADS // groups), random_for(HEADS // groups), random_for(HEADS)]


def by_hand(batch: Batch, layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute plain causal attention over each whole row, reduced to the unique tokens: (1, heads, tokens, dim)."""
    groups = query.size(1) // key.size(1)
    results: dict[int, torch.Tensor] = {}
    for row in row_numbers(batch, layout).values():
        own_query = query[0][:, row]
        own_key, own_value = (part[0][:, row].repeat_interleave(groups, dim=0) for part in (key, value))
        scores = SCALING * own_query @ own_key.transpose(1, 2)
        later = torch.ones(len(row), len(row)).triu(1).bool()
        found = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ own_value
        for column, number in enumerate(row):
            if number in results:  # a shared token has the same result in every row
                assert torch.allclose(results[number], found[:, column])
            results[number] = found[:, column]
    return torch.stack([results[number] for number in range(len(results))], dim=1)[None]


def our_attention(layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Call `attend` as a model does: (1, tokens, heads, dim)."""
    inputs = attention_inputs(layout)
    module = Layer(query.size(1) // key.size(1)).train()
    given_too = {"dropout": 0.0, "scaling": SCALING, "sliding_window": None, "is_causal": None, "use_cache": False}
    result, _ = attend(
        module,
        query,
        key,
        value,
        inputs["attention_mask"],
        otherwise=sdpa_attention_forward,
        gathered_rows=inputs["gathered_rows"],
        **given_too,
    )
    return result


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("batch", SHORT, ids=range(len(SHORT)))
def test_gathered_rows_attend_as_whole_rows_do(batch: Batch, groups: int) -> None:
    """Results and all gradients are equal, with a key for every query head and with shared ones."""
    assert_attends_as_rows_do(batch, groups)


@quick
@given(batches())
def test_gathered_rows_of_random_batches_attend_as_whole_rows_do(batch: Batch) -> None:
    assert_attends_as_rows_do(batch, groups=2)


def assert_attends_as_rows_do(batch: Batch, groups: int) -> None:
    layout = batch.lay_out()
    *inputs, weight = tokens_of(layout, groups)
    ours = [part.clone().requires_grad_() for part in inputs]
    theirs = [part.clone().requires_grad_() for part in inputs]
    found, expected = our_attention(layout, *ours), by_hand(batch, layout, *theirs)
    assert found.shape == (1, layout.source.numel(), HEADS, DIMENSION)
    assert torch.allclose(found.transpose(1, 2), expected, rtol=1e-9, atol=1e-12)
    (found.transpose(1, 2) * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert plain.grad is not None
        assert torch.allclose(mine.grad, plain.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("batch", [*SHORT, LONG[0]], ids=[*range(len(SHORT)), "long"])
@pytest.mark.parametrize("groups", [1, 2])
def test_flex_attention_attends_as_whole_rows_do(batch: Batch, groups: int) -> None:
    """PyTorch's own function is called with our mask; on a CPU it is not compiled and has no gradient."""
    layout = batch.lay_out()
    query, key, value, _ = tokens_of(layout, groups)
    with torch.no_grad():
        mask = block_mask(layout)
        found = flex_attention(query, key, value, block_mask=mask, scale=SCALING, enable_gqa=groups > 1)
    assert torch.allclose(found, by_hand(batch, layout, query, key, value), rtol=1e-9, atol=1e-9)


def test_gathered_rows_in_bfloat16_stay_in_bfloat16() -> None:
    batch = SHORT[0]
    layout = batch.lay_out()
    *inputs, _ = tokens_of(layout, 2)
    found = our_attention(layout, *(part.bfloat16() for part in inputs))
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double().transpose(1, 2), by_hand(batch, layout, *inputs), atol=0.05)


@pytest.mark.parametrize("is_masked", [False, True])
def test_without_a_layout_it_is_transformers_own(is_masked: bool) -> None:
    """It is bitwise equal, with any other arguments that a model passes."""
    query, key, value = (torch.randn(2, heads, 5, DIMENSION) for heads in (HEADS, 2, 2))
    mask = torch.ones(2, 1, 5, 5).tril().bool() if is_masked else None
    arguments: dict[str, Any] = {"scaling": SCALING, "dropout": 0.0, "sliding_window": 3}
    expected, _ = sdpa_attention_forward(Layer(2), query, key, value, mask, **arguments)
    found, _ = attend(Layer(2), query, key, value, mask, otherwise=sdpa_attention_forward, **arguments)
    registered, _ = AttentionInterface()[IMPLEMENTATIONS["sdpa"]](Layer(2), query, key, value, mask, **arguments)
    assert torch.equal(found, expected)
    assert torch.equal(registered, expected)


def test_a_model_that_is_not_given_a_layout_is_what_it_was() -> None:
    """Logits for a padded batch, and greedy continuations, are unchanged."""
    model, text = tiny.model(), tiny.tokenizer()
    rows = text(["Ann paints a boat.", "Bob"], return_tensors="pt", padding=True, padding_side="left")
    rows.pop("token_type_ids", None)
    with torch.no_grad():
        before = model(**rows).logits, model.generate(**rows, max_new_tokens=8, do_sample=False)
        model.set_attn_implementation(IMPLEMENTATIONS["sdpa"])
        after = model(**rows).logits, model.generate(**rows, max_new_tokens=8, do_sample=False)
    assert model.config._attn_implementation == "spin_trl_sdpa"
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3", "gemma", "qwen2_moe"])
def test_a_model_over_unique_tokens_gives_each_rows_logits(architecture: str) -> None:
    """Each token's logits equal those of its row alone, unpadded; also with the batch's own positions."""
    model, batch = tiny.model(architecture), SHORT[0]
    layout = batch.lay_out()
    with torch.no_grad():
        model.set_attn_implementation(IMPLEMENTATIONS["sdpa"])
        inputs = {"input_ids": layout.gather(batch.tensors()[0])[None], "position_ids": layout.position_ids}
        found = model(**inputs, **attention_inputs(layout), use_cache=False, output_router_logits=False).logits[0]
        for (branch, pair), row in row_numbers(batch, layout).items():
            expected = model(torch.tensor([batch.rows[branch][pair]]), output_router_logits=False).logits[0]
            assert torch.allclose(found[row], expected, atol=2e-5)


def test_a_model_that_is_not_told_of_the_layout_fails_loudly() -> None:
    """The placeholder mask has a dimension of 0, which no attention accepts, so nothing attends to everything by mistake."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    layout = lay_out(ids, torch.ones_like(ids), ids, num_pairs=1)
    mask = attention_inputs(layout)["attention_mask"]
    assert mask.dim() == 4
    assert 0 in mask.shape
    for attention in ("eager", "sdpa", IMPLEMENTATIONS["sdpa"]):
        for tokens in (layout.gather(ids)[None], ids[:1, :1]):
            model = tiny.model()
            model.set_attn_implementation(attention)
            with pytest.raises((RuntimeError, IndexError)), torch.no_grad():
                model(input_ids=tokens, attention_mask=mask, use_cache=False)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_in_autocasts_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SDPA does: with float32 weights, rotary embeddings leave query and key in float32 and the value in bfloat16."""
    seen: list[set[torch.dtype]] = []

    def flex(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        seen.append({query.dtype, key.dtype, value.dtype})
        result = flex_attention(query, key, value, block_mask=mask, scale=kwargs["scaling"], enable_gqa=True)
        return result.transpose(1, 2), None

    model, batch = tiny.model("qwen2", head_dim=16).eval(), SHORT[0]
    model.set_attn_implementation(IMPLEMENTATIONS["sdpa"])
    layout = batch.lay_out()
    inputs = {"input_ids": layout.gather(batch.tensors()[0])[None], "position_ids": layout.position_ids}
    logits = []
    for has_flex in (True, False):
        monkeypatch.setattr("spin_trl.models.forward.attention.has_flex_attention", lambda device, has=has_flex: has)
        monkeypatch.setattr("spin_trl.models.forward.attention.flex_attention_forward", flex)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits.append(model(**inputs, **attention_inputs(layout), use_cache=False).logits.float())
    assert seen == [{torch.bfloat16}] * model.config.num_hidden_layers
    assert torch.allclose(*logits, atol=0.02)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention is compiled for a CPU with a C++ compiler")
@pytest.mark.skipif(
    locale.getpreferredencoding(False).lower() != "utf-8",
    reason="torch reads its compiler's files as the locale has them",
)
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch compiles for CPUs with vector instructions alone",
)
def test_flex_attention_as_transformers_compiles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for a GPU is compiled on a CPU, where it has no gradients, and for only one length, as torch 2.13 can't
    compile more there.
    """
    monkeypatch.setattr("spin_trl.models.forward.attention.has_flex_attention", lambda device: True)
    model, batch = tiny.model(head_dim=16).eval(), LONG[1]
    model.set_attn_implementation(IMPLEMENTATIONS["sdpa"])
    layout = batch.lay_out()
    inputs = {"input_ids": layout.gather(batch.tensors()[0])[None], "position_ids": layout.position_ids}
    more = attention_inputs(layout)
    assert isinstance(more["attention_mask"], BlockMask)
    with torch.no_grad():
        found = model(**inputs, **more, use_cache=False).logits[0]
        for (branch, pair), row in row_numbers(batch, layout).items():
            expected = model(torch.tensor([batch.rows[branch][pair]])).logits[0]
            assert torch.allclose(found[row], expected, atol=2e-5)
