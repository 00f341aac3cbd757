"""Random batches in plain lists, and the layout that each must have."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from spin_trl.models.forward.layout import Layout, lay_out

PADDING = 0
"""Also an ordinary token of the random batches: only the attention mask says where a row ends."""

Place = tuple[int, int | None, int]
"""Identity of a unique token: its pair, its branch (None if all rows of the pair share it) and its column."""


@dataclass(frozen=True)
class Batch:
    """A batch in plain lists, from which tests compute what its layout must be.

    Attributes:
        rows: tokens by branch and pair.
        responses: column at which the response of every row begins.
        extra: columns of padding beyond the longest row.
    """

    rows: list[list[list[int]]]
    responses: list[list[int]]
    extra: int = 0

    @property
    def num_pairs(self) -> int:
        """Number of rows of each branch."""
        return len(self.rows[0])

    @property
    def length(self) -> int:
        """Number of columns, including padding."""
        return max(len(row) for branch in self.rows for row in branch) + self.extra

    def flat(self) -> list[tuple[int, int, list[int]]]:
        """Return branch, pair and tokens of every row, in the order of the batch."""
        return [(branch, pair, row) for branch, rows in enumerate(self.rows) for pair, row in enumerate(rows)]

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`."""
        ids, mask, labels = [], [], []
        for branch, pair, row in self.flat():
            rest, begin = self.length - len(row), self.responses[branch][pair]
            ids.append(row + [PADDING] * rest)
            mask.append([1] * len(row) + [0] * rest)
            labels.append([-100] * min(begin, len(row)) + row[begin:] + [-100] * rest)
        return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)

    def lay_out(self) -> Layout:
        """Return the layout under test."""
        return lay_out(*self.tensors(), num_pairs=self.num_pairs)

    def shared(self, pair: int) -> int:
        """Return how many tokens all rows of a pair have in common at the beginning."""
        rows = [branch[pair] for branch in self.rows]
        count = 0
        while all(count < len(row) and row[count] == rows[0][count] for row in rows):
            count += 1
        return count

    def places(self, branch: int, pair: int) -> list[Place]:
        """Return the unique tokens that the tokens of a row map to."""
        shared = self.shared(pair)
        columns = range(len(self.rows[branch][pair]))
        return [(pair, None if column < shared else branch, column) for column in columns]

    def labels(self) -> list[tuple[int, int, int, int]]:
        """Return row, branch, pair and column of every token that is scored; nothing predicts a row's first."""
        return [
            (number, branch, pair, column)
            for number, (branch, pair, row) in enumerate(self.flat())
            for column in range(max(self.responses[branch][pair], 1), len(row))
        ]


def numbered(batch: Batch, layout: Layout) -> dict[Place, int]:
    """Return the number of every unique token, by its identity."""
    found = {}
    for number, source in enumerate(layout.source.tolist()):
        row, column = divmod(source, batch.length)
        pair, branch = row % batch.num_pairs, row // batch.num_pairs
        found[batch.places(branch, pair)[column]] = number
    return found


def row_numbers(batch: Batch, layout: Layout) -> dict[tuple[int, int], list[int]]:
    """Return the numbers of the unique tokens of every row, by branch and pair."""
    numbers = numbered(batch, layout)
    return {(b, p): [numbers[place] for place in batch.places(b, p)] for b, p, _ in batch.flat()}


def seen(batch: Batch, layout: Layout) -> list[list[int]]:
    """Return, for every unique token in ascending order, the numbers of those it must see: its row up to itself."""
    result: list[list[int]] = [[] for _ in range(layout.source.numel())]
    for row in row_numbers(batch, layout).values():
        for column, number in enumerate(row):
            result[number] = sorted(row[: column + 1])
    return result


def truncated(row: list[int], response: int, max_length: int | None, mode: str) -> tuple[list[int], int]:
    """Return a row and the start of its response after TRL's collator has truncated it."""
    if max_length is None or len(row) <= max_length:
        return row, response
    if mode == "keep_start":
        return row[:max_length], response
    return row[-max_length:], max(response - (len(row) - max_length), 0)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Generate batches of one to four pairs whose rows have up to twelve tokens, from a vocabulary so small that many
    are equal.
    """
    tokens = st.integers(0, 3)
    num_branches, num_pairs = draw(st.sampled_from([2, 3])), draw(st.integers(1, 4))
    rows: list[list[list[int]]] = [[] for _ in range(num_branches)]
    begins: list[list[int]] = [[] for _ in range(num_branches)]
    max_length = draw(st.none() | st.integers(1, 8))
    mode = draw(st.sampled_from(["keep_start", "keep_end"]))
    for _ in range(num_pairs):
        prompt = draw(st.lists(tokens, min_size=1, max_size=6))
        first = draw(st.lists(tokens, max_size=6))
        beginnings = [first[:count] for count in range(len(first) + 1)]
        ends = st.lists(tokens, max_size=3)
        others = st.lists(tokens, max_size=6) | st.sampled_from(beginnings) | ends.map(first.__add__)
        for branch in range(num_branches):
            row, begin = truncated(prompt + (draw(others) if branch else first), len(prompt), max_length, mode)
            rows[branch].append(row)
            begins[branch].append(begin)
    return Batch(rows, begins, extra=draw(st.integers(0, 3)))
