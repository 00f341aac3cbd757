"""Attention over a row of unique tokens: functions that transformers' models call instead of their own, given a layout.

On recent GPUs it is FlexAttention, which skips blocks that no token sees. Elsewhere tokens are gathered into rows to attend
over: those of the first branch, causally; and the unshared tokens of the other branches, against their whole rows. Only
attention sees padding; every other layer runs on the row of unique tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

from .layout import Layout

ATTENTION_BLOCK = 128
"""Side of the blocks, in tokens, that FlexAttention computes or skips: its default."""

_KEYWORD = "gathered_rows"
_NEVER_USED = torch.empty(1, 1, 1, 0)  # transformers passes four-dimensional masks on to attention unchanged


@dataclass(frozen=True)
class GatheredRows:
    """The rows that attention runs over without FlexAttention.

    Attributes:
        layout: layout of the batch.
        mask: which of a row's keys each query sees, shape ((branches - 1) * pairs, 1, queries, keys).
    """

    layout: Layout
    mask: torch.Tensor


def attention_inputs(layout: Layout) -> dict[str, Any]:
    """Return the arguments, in addition to the tokens, that make the attention of a model's forward follow a layout.

    Args:
        layout: layout on the device of the model.
    """
    if has_flex_attention(layout.source.device):
        return {"attention_mask": block_mask(layout)}
    columns = torch.arange(layout.keys.size(1), device=layout.keys.device)
    branches = layout.keys.size(0) // layout.shared.size(0)
    last_seen = layout.shared.repeat(branches)[:, None] + columns[: layout.queries.size(1)]
    rows = GatheredRows(layout, (columns <= last_seen[..., None])[:, None])
    return {"attention_mask": _NEVER_USED, _KEYWORD: rows}


def has_flex_attention(device: torch.device) -> bool:
    """Return whether FlexAttention compiles on a device, with gradients: on NVIDIA GPUs since Ampere."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def block_mask(layout: Layout) -> BlockMask:
    """Return FlexAttention's mask for a layout, built from ranges without a tokens-by-tokens matrix."""
    tokens, device = layout.visible.size(0), layout.visible.device
    (first, first_end), (second, second_end) = (
        [end.contiguous() for end in range_.T] for range_ in layout.visible.unbind(1)
    )
    starts = torch.arange(0, tokens, ATTENTION_BLOCK, device=device)

    def overlap(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        begin = torch.maximum(start[:, None], starts)
        return (torch.minimum(end[:, None], starts + ATTENTION_BLOCK) - begin).clamp(min=0)

    seen = overlap(first, first_end) + overlap(second, second_end)  # by token and block of keys
    counts = seen.new_zeros(len(starts), len(starts))
    counts.index_add_(0, torch.arange(tokens, device=device) // ATTENTION_BLOCK, seen)
    is_full = counts == ATTENTION_BLOCK * ATTENTION_BLOCK
    partial, full = _block_lists((counts > 0) & ~is_full), _block_lists(is_full)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        in_first = (key >= first[query]) & (key < first_end[query])
        return in_first | ((key >= second[query]) & (key < second_end[query]))

    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=ATTENTION_BLOCK, mask_mod=sees, seq_lengths=(tokens, tokens)
    )


def _block_lists(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each block of queries, the number of chosen blocks of keys and their indices, the chosen ones first."""
    order = chosen.int().argsort(dim=1, descending=True, stable=True)
    return chosen.sum(dim=1, dtype=torch.int32)[None, None], order.int()[None, None]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    *,
    otherwise: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute attention as transformers' models call it, following a layout if one is given.

    Args:
        module: attention layer.
        query, key, value: tensors of shape (1, heads, tokens, dimension) with a layout.
        attention_mask: mask from [`attention_inputs`], or the model's own without a layout.
        otherwise: transformers' function for calls without a layout.
        kwargs: `dropout`, `scaling` and anything else that a model passes.

    Returns:
        Results of shape (1, tokens, heads, dimension), and the second result of transformers' function.
    """
    rows: GatheredRows | None = kwargs.pop(_KEYWORD, None)
    if isinstance(attention_mask, BlockMask):
        query, key, value = (_as_autocast(tokens) for tokens in (query, key, value))
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if rows is None:
        return otherwise(module, query, key, value, attention_mask, **kwargs)
    layout = rows.layout

    def gather(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Gather from (1, heads, tokens, dimension) to (rows, heads, tokens of a row, dimension)."""
        return tokens[0].index_select(1, index.flatten()).unflatten(1, index.shape).transpose(0, 1)

    kwargs.pop("is_causal", None)
    kwargs.pop("sliding_window", None)
    trunk = gather(query, layout.trunk), gather(key, layout.trunk), gather(value, layout.trunk)
    results = [sdpa_attention_forward(module, *trunk, None, is_causal=True, **kwargs)[0]]
    if layout.queries.numel():
        branches = gather(query, layout.queries), gather(key, layout.keys), gather(value, layout.keys)
        results.append(sdpa_attention_forward(module, *branches, rows.mask, is_causal=False, **kwargs)[0])
    joined = torch.cat([result.flatten(0, 1) for result in results])
    return joined.index_select(0, layout.places)[None], None


def _as_autocast(tokens: torch.Tensor) -> torch.Tensor:
    """Cast to the dtype that attention computes in under autocast.

    Autocast casts the inputs of SDPA, but not those of FlexAttention: with float32 weights the rotary embedding leaves query
    and key in float32, while the value is in half precision.
    """
    kind = tokens.device.type
    if torch.is_autocast_enabled(kind) and tokens.dtype != torch.float64:
        return tokens.to(torch.get_autocast_dtype(kind))
    return tokens


IMPLEMENTATIONS = {"sdpa": "spin_trl_sdpa", "flex_attention": "spin_trl_flex"}
"""Attention implementations that can also follow a layout, by the name of the plain implementation."""

for _name, _attend, _mask in (
    ("sdpa", sdpa_attention_forward, sdpa_mask),
    ("flex_attention", flex_attention_forward, flex_attention_mask),
):
    AttentionInterface.register(IMPLEMENTATIONS[_name], functools.partial(attend, otherwise=_attend))
    AttentionMaskInterface.register(IMPLEMENTATIONS[_name], _mask)
