"""The layout of a batch in which each token occurs once: one row, without padding, prompts shared between responses.

The rows of a pair begin with the same tokens. Its layout is [shared part | rest of the real row | rest of the generated
row | ...], pair after pair; positions continue from the shared part in every branch, and no branch sees another. Everything
here is index arithmetic on a trainer's batch: it runs where the batch is made, in the data loader's worker, without a model.
(Prefix sharing for preference pairs: Wang and Hegde, arXiv 2410.20305.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass(frozen=True)
class Layout:
    """The unique tokens of a batch of `branches * pairs` rows.

    Attributes:
        shape: shape of the batch that the layout is for, (branches * pairs, length).
        longest: tokens in its longest row.
        source: position of every unique token in the flattened batch, shape (tokens,).
        position_ids: position id of every unique token, shape (1, tokens).
        scored: unique token that predicts each label, shape (labels,). At the end of a prompt, one token predicts the first
            token of each response.
        targets: labels, shape (1, labels).
        slots: position of each label's result in the flattened results of shape (branches * pairs, length - 1).
        visible: what every unique token sees: two ranges of unique tokens, shape (tokens, 2, 2), ends excluded.
        shared: number of tokens that the rows of a pair share, shape (pairs,).
        trunk: unique tokens of the first branch's rows, shape (pairs, longest of them), padded with arbitrary ones.
        queries: unshared unique tokens of the other branches, shape ((branches - 1) * pairs, most of them).
        keys: unique tokens of the other branches' whole rows, shape ((branches - 1) * pairs, longest of them).
        places: place of every unique token when the results for `trunk` and for `queries` are flattened and concatenated.
    """

    shape: tuple[int, int]
    longest: int
    source: torch.Tensor
    position_ids: torch.Tensor
    scored: torch.Tensor
    targets: torch.Tensor
    slots: torch.Tensor
    visible: torch.Tensor
    shared: torch.Tensor
    trunk: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    places: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """Return the layout on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Layout:
        """Return the layout in pinned memory, which data loaders ask for."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Layout:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return Layout(**values)

    def gather(self, batch: torch.Tensor) -> torch.Tensor:
        """Return a batch's values at the unique tokens: from (branches * pairs, length) to (tokens,)."""
        return batch.flatten().index_select(0, self.source)


def scattered(results: torch.Tensor, slots: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Move results for labels, shape (labels,), to where a trainer expects them, among zeros, as TRL's head does.

    Args:
        results: results for the labels.
        slots: positions to move them to, in the flattened results of all positions.
        shape: shape of the batch, (rows, length); its results have one column less.
    """
    rows, length = shape
    return results.new_zeros(rows * (length - 1)).index_copy(0, slots, results).view(rows, length - 1)


def lay_out(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, num_pairs: int) -> Layout:
    """Lay out a batch of pairs.

    Args:
        input_ids: shape (branches * num_pairs, length): first all real rows (a prompt and its real response), then all
            generated ones in the same order, then any further branch; padded on the right.
        attention_mask: 1 where there is a token, same shape.
        labels: the token itself where it is scored, -100 elsewhere, same shape.
        num_pairs: rows in each branch.

    Raises:
        ValueError: if the rows are not padded on the right, or their number is not a multiple of `num_pairs`.
    """
    # Long, since every tensor is computed from those before it; separate functions would each take most of them.
    (num_rows, length), device = input_ids.shape, input_ids.device
    if num_rows % num_pairs:
        raise ValueError(f"{num_rows} rows can't be branches of {num_pairs} pairs.")
    by_branch = (num_rows // num_pairs, num_pairs, length)
    columns = torch.arange(length, device=device)
    lengths = attention_mask.sum(dim=1)
    is_token = columns < lengths[:, None]
    wrong = (is_token != attention_mask.bool()).any(dim=1)
    if wrong.any():
        raise ValueError(f"Row {int(wrong.nonzero()[0])} of `attention_mask` is not padded on the right.")

    # The tokens that the rows of a pair share, and where the rest of each row begins in the row of unique tokens.
    ids, is_token = input_ids.view(by_branch), is_token.view(by_branch)
    shared = ((ids == ids[0]) & is_token).all(dim=0).long().cumprod(dim=1).sum(dim=1)
    rests = lengths.view(by_branch[:2]) - shared
    totals = shared + rests.sum(dim=0)
    starts = totals.cumsum(0) - totals
    rest_starts = starts + shared + rests.cumsum(0) - rests

    # From the batch to unique tokens: `unique` has the shape `by_branch`.
    is_shared = columns < shared[:, None]
    unique = torch.where(is_shared, starts[:, None] + columns, (rest_starts - shared)[..., None] + columns)
    is_owner = is_token & ~is_shared
    is_owner[0] = is_token[0]  # the first branch holds the shared tokens
    num_tokens = int(totals.sum())
    source = torch.empty(num_tokens, dtype=torch.long, device=device)
    source[unique[is_owner]] = is_owner.flatten().nonzero().squeeze(1)

    # And back: the branch, pair and column of every unique token.
    branch, pair, column = source // (num_pairs * length), source // length % num_pairs, source % length
    numbers = torch.arange(num_tokens, device=device)
    shared_end = starts[pair] + shared[pair]
    own_start = torch.where(column < shared[pair], numbers + 1, rest_starts[branch, pair])
    visible = torch.stack([starts[pair], torch.minimum(numbers + 1, shared_end), own_start, numbers + 1], dim=1)

    filled = unique.clamp(max=num_tokens - 1)
    trunk = filled[0, :, : int(lengths[:num_pairs].max())]
    keys = filled[1:].flatten(0, 1)[:, : int(lengths[num_pairs:].max()) if num_rows > num_pairs else 0]
    most = int(rests[1:].max()) if num_rows > num_pairs else 0
    queries = (rest_starts[1:, :, None] + columns[:most]).clamp(max=num_tokens - 1).flatten(0, 1)
    behind = trunk.numel() + ((branch - 1) * num_pairs + pair) * most + column - shared[pair]

    slots = (labels[:, 1:] != -100).flatten().nonzero().squeeze(1)
    scored = unique[..., :-1].flatten().index_select(0, slots)
    return Layout(
        shape=(num_rows, length),
        longest=int(lengths.max()),
        source=source,
        position_ids=column[None],
        scored=scored,
        targets=labels[:, 1:].flatten().index_select(0, slots)[None],
        slots=slots,
        visible=visible.view(-1, 2, 2),
        shared=shared,
        trunk=trunk,
        queries=queries,
        keys=keys,
        places=torch.where(branch == 0, pair * trunk.size(1) + column, behind),
    )
