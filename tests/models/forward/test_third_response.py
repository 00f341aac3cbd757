"""Further rows go through a model's forward with its caller's rows, and are separated from them afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spin_trl.models.forward.batch import PROTO_PREFIX, Forwards, joined, with_labels


def rows(*ids: list[int], scored: int) -> dict[str, torch.Tensor]:
    """Return rows of equal length, whose last tokens are scored."""
    batch = torch.tensor(ids)
    mask = torch.zeros_like(batch)
    mask[:, -scored:] = 1
    return {"input_ids": batch, "attention_mask": torch.ones_like(batch), "completion_mask": mask}


class Output(dict[str, Any]):
    """Output as in transformers: a mapping whose values are also attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Summing(torch.nn.Module):
    """Model whose log-probability of a scored token is its id times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Output:
        self.seen.append(tuple(input_ids.shape))
        return Output(log_probs=self.weight * input_ids * (labels != -100), loss=torch.tensor(0.0))


def beside(own: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a batch that carries further rows."""
    return own | {f"{PROTO_PREFIX}{name}": value for name, value in more.items()}


def test_only_what_is_scored_has_a_label() -> None:
    found = with_labels(rows([5, 6, 7, 8], scored=2))
    assert found["labels"].tolist() == [[-100, -100, 7, 8]]
    assert set(found) == {"input_ids", "attention_mask", "labels"}


def test_rows_of_two_batches_are_filled_up_to_the_longer() -> None:
    """They are padded on the right, with ids and masks of 0, and labels that are not scored."""
    short, long = with_labels(rows([5, 6], scored=1)), with_labels(rows([7, 8, 9], scored=1))
    for one, other in ((short, long), (long, short)):
        both = joined(one, other)
        position = 0 if one is short else 1
        assert both["input_ids"].shape == (2, 3)
        assert both["input_ids"][position].tolist() == [5, 6, 0]
        assert both["attention_mask"][position].tolist() == [1, 1, 0]
        assert both["labels"][position].tolist() == [-100, 6, -100]


@pytest.mark.parametrize("more", [rows([10, 20, 30], scored=2), rows([10, 20], scored=1), rows([20], [30], scored=1)])
def test_further_rows_are_scored_unseen(more: dict[str, torch.Tensor]) -> None:
    """The caller gets the same result as without them, whether they are longer or shorter; their sums have a gradient."""
    model, own = Summing(), with_labels(rows([1, 2], [3, 4], scored=1))
    alone = model(**own)
    with Forwards(None).batch(beside(own, more), model) as passing:
        output = model(**own)
    torch.testing.assert_close(output.log_probs, alone.log_probs)
    sums = (more["input_ids"] * more["completion_mask"]).sum(dim=1).float()
    assert passing.third_logps is not None
    torch.testing.assert_close(passing.third_logps.detach(), sums)
    passing.third_logps.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == sums.sum().item()
    assert model.seen[1][0] == 2 + len(sums)


def test_only_the_next_forward_takes_them() -> None:
    """A forward of the reference, or a later one, is unchanged, and nothing is left on the model."""
    model, own = Summing(), with_labels(rows([1, 2], scored=1))
    with Forwards(None).batch(beside(own, rows([9], scored=1)), model) as passing:
        model(**own)
        model(**own)
    model(**own)
    assert [shape[0] for shape in model.seen] == [2, 1, 1]
    assert [len(record) for record in passing.log_probs] == [1, 1]
    assert passing.third_logps is not None
    assert passing.third_logps.tolist() == [9.0]


def test_without_further_rows_nothing_is_done() -> None:
    model, own = Summing(), with_labels(rows([1, 2], scored=1))
    with Forwards(None).batch(own, model) as passing:
        model(**own)
    assert (passing.third_logps, model.seen) == (None, [(1, 2)])
