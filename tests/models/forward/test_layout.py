"""A layout has every token of a batch once, and every token sees exactly what it sees in its row."""

import dataclasses
import pickle
from collections.abc import Sequence

import torch
from hypothesis import given, settings

from batches import Batch, batches, numbered, row_numbers, seen
from messages import refused
from spin_trl.models.forward.attention import attention_inputs
from spin_trl.models.forward.layout import Layout, lay_out, scattered

quick = settings(max_examples=100, deadline=None)


def history(tokens: Sequence[int]) -> float:
    """Return a number that is unique to a sequence of up to 22 tokens, each below 4."""
    value = 0
    for token in tokens:
        value = 5 * value + token + 1
    return float(value)


@quick
@given(batches())
def test_every_token_is_there_once(batch: Batch) -> None:
    """A pair's layout holds what its rows share and what they don't, and every token is where the layout says."""
    layout = batch.lay_out()
    shared = [batch.shared(pair) for pair in range(batch.num_pairs)]
    rests = sum(len(row) - shared[pair] for _, pair, row in batch.flat())
    assert layout.source.numel() == sum(shared) + rests
    assert layout.shared.tolist() == shared
    assert set(numbered(batch, layout)) == {place for b, p, _ in batch.flat() for place in batch.places(b, p)}
    assert layout.shape == (len(batch.rows) * batch.num_pairs, batch.length)
    assert layout.longest == batch.length - batch.extra


@quick
@given(batches())
def test_gather_gives_tokens_at_their_columns(batch: Batch) -> None:
    layout = batch.lay_out()
    ids, columns = layout.gather(batch.tensors()[0]).tolist(), layout.position_ids[0].tolist()
    assert layout.position_ids.shape == (1, len(ids))
    for (branch, pair), row in row_numbers(batch, layout).items():
        assert [ids[number] for number in row] == batch.rows[branch][pair]
        assert [columns[number] for number in row] == list(range(len(row)))


@quick
@given(batches())
def test_what_a_model_says_of_a_label_arrives_in_its_row(batch: Batch) -> None:
    """The token that predicts a label has the row's beginning as its history, and its result is at the label's position."""
    layout = batch.lay_out()
    ids = layout.gather(batch.tensors()[0]).tolist()
    histories = [[ids[number] for number in sorted(before)] for before in seen(batch, layout)]
    # Ascending order in a shared row is also the row's order: the shared part, then the branch's own.
    results = [
        history([*histories[token], target])
        for token, target in zip(layout.scored.tolist(), layout.targets[0].tolist(), strict=True)
    ]
    expected = [[0.0] * (batch.length - 1) for _ in batch.flat()]
    for number, branch, pair, column in batch.labels():
        expected[number][column - 1] = history(batch.rows[branch][pair][: column + 1])
    spread = scattered(torch.tensor(results, dtype=torch.float64), layout.slots, layout.shape)
    assert spread.shape == (len(expected), batch.length - 1)
    assert spread.tolist() == expected
    assert layout.targets.shape == (1, len(batch.labels()))


@quick
@given(batches())
def test_a_token_sees_its_own_row_up_to_itself(batch: Batch) -> None:
    """It sees no other branch, no other pair and nothing later, in the two ranges that FlexAttention's mask is built
    from.
    """
    layout = batch.lay_out()
    expected = seen(batch, layout)
    assert layout.visible.shape == (len(expected), 2, 2)
    for ranges, numbers in zip(layout.visible.tolist(), expected, strict=True):
        assert [number for start, end in ranges for number in range(start, end)] == numbers


@quick
@given(batches())
def test_gathered_rows_see_the_same(batch: Batch) -> None:
    """Each token is the query at its own place, and its keys are its row's tokens up to itself, none of them twice."""
    layout = batch.lay_out()
    mask = attention_inputs(layout)["gathered_rows"].mask
    trunk, queries, keys = layout.trunk.tolist(), layout.queries.tolist(), layout.keys.tolist()
    size, width, most = layout.trunk.numel(), layout.trunk.size(1), layout.queries.size(1)
    assert mask.shape == (len(queries), 1, most, layout.keys.size(1))
    for number, (place, expected) in enumerate(zip(layout.places.tolist(), seen(batch, layout), strict=True)):
        if place < size:
            row, column = divmod(place, width)
            query, found = trunk[row][column], trunk[row][: column + 1]
        else:
            row, column = divmod(place - size, most)
            chosen = mask[row, 0, column].tolist()
            query, found = (
                queries[row][column],
                [key for key, is_seen in zip(keys[row], chosen, strict=True) if is_seen],
            )
        assert query == number
        assert sorted(found) == expected


@quick
@given(batches())
def test_a_layout_survives_the_way_from_the_worker(batch: Batch) -> None:
    """Pickling it and moving it to a device don't change it."""
    layout = batch.lay_out()
    for other in (pickle.loads(pickle.dumps(layout)), layout.to("cpu"), layout.to(torch.device("cpu"), True)):
        assert type(other) is Layout
        for field in dataclasses.fields(Layout):
            before, after = getattr(layout, field.name), getattr(other, field.name)
            if isinstance(before, torch.Tensor):
                assert torch.equal(before, after), field.name
                assert before.dtype == after.dtype, field.name
            else:
                assert before == after, field.name


def test_to_moves_every_tensor() -> None:
    moved = Batch([[[1, 2]], [[1, 3]]], [[1], [1]]).lay_out().to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 11
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_layout_by_hand() -> None:
    """Of two pairs, the responses of one begin with the same tokens, and the rows of the other only have their length
    in common.
    """
    batch = Batch([[[5, 6, 7, 8], [1, 2]], [[5, 6, 7, 9, 9], [3, 2]]], [[2, 1], [2, 1]], extra=1)
    layout = batch.lay_out()
    #                                        5  6  7 | 8 | 9  9 || 1  2 | 3  2
    assert layout.gather(batch.tensors()[0]).tolist() == [5, 6, 7, 8, 9, 9, 1, 2, 3, 2]
    assert layout.source.tolist() == [0, 1, 2, 3, 15, 16, 6, 7, 18, 19]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1, 0, 1]]
    assert (layout.shape, layout.longest, layout.shared.tolist()) == ((4, 6), 5, [3, 0])
    # The labels: 7 8 | 2 | 7 9 9 | 2. The 6 predicts both sevens, the shared 7 both the 8 and the first 9.
    assert layout.targets.tolist() == [[7, 8, 2, 7, 9, 9, 2]]
    assert layout.scored.tolist() == [1, 2, 6, 1, 2, 4, 8]
    assert scattered(torch.arange(1.0, 8.0), layout.slots, layout.shape).tolist() == [
        [0, 1, 2, 0, 0],
        [3, 0, 0, 0, 0],
        [0, 4, 5, 6, 0],
        [7, 0, 0, 0, 0],
    ]
    assert layout.visible[3].tolist() == [[0, 3], [3, 4]]
    assert layout.visible[5].tolist() == [[0, 3], [4, 6]]
    assert layout.visible[9].tolist() == [[6, 6], [8, 10]]


def test_rows_filled_up_on_the_left_are_refused() -> None:
    ids = torch.tensor([[0, 1, 2], [1, 2, 3]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    with refused(ValueError, "Row 0", "`attention_mask`"):
        lay_out(ids, mask, ids, num_pairs=1)


def test_a_hole_in_a_row_is_refused() -> None:
    ids = torch.tensor([[1, 0, 2], [1, 2, 3]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    with refused(ValueError, "Row 0", "`attention_mask`"):
        lay_out(ids, mask, ids, num_pairs=1)


def test_rows_that_are_no_branches_are_refused() -> None:
    ids = torch.tensor([[1, 2], [1, 3], [1, 4]])
    with refused(ValueError, "3 rows", "2 pairs"):
        lay_out(ids, torch.ones_like(ids), ids, num_pairs=2)
