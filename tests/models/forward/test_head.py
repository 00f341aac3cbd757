"""The head scores only labelled positions, also on a CPU, with the same results as TRL's head."""

from typing import Any

import pytest
import torch
import trl.trainer.utils
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

import tiny
from spin_trl.models.forward.head import CPU_TILE, labelled_positions, spread

pytestmark = pytest.mark.numeric

OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
TILE = "_CHUNKED_LOGPROB_CHUNK_SIZE"


def batch() -> dict[str, torch.Tensor]:
    """Return two rows of eight columns, with padding; five tokens are scored."""
    ids = torch.randint(0, 300, (2, 8), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.full_like(ids, -100)
    labels[0, 5:], labels[1, 4:6] = ids[0, 5:], ids[1, 4:6]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# For each of the five labels: the position that predicts it in the flattened batch (row * 8 + column - 1), and the
# index of its result in the flattened results, which have one column less (row * 7 + column - 1).
SCORED = [4, 5, 6, 11, 12]
SLOTS = torch.tensor([4, 5, 6, 10, 11])


def model(outputs: tuple[str, ...] = OUTPUTS) -> PreTrainedModel:
    """Return the tiny Llama with TRL's head."""
    result = tiny.model()
    add_fused_lm_head(result, outputs=outputs)
    return result


def over_labels(model: PreTrainedModel, rows: dict[str, torch.Tensor], scored: list[int]) -> FusedCausalLMOutput:
    """Run a forward whose head sees only some positions."""
    labels = rows["labels"][:, 1:].flatten()
    inputs = {name: value for name, value in rows.items() if name != "labels"}
    with labelled_positions(model.base_model, torch.tensor(scored, dtype=torch.long)):
        return model(**inputs, shift_labels=labels[labels != -100][None], fused_lm_head=True)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the positions that TRL's head receives from now on, and the columns of the vocabulary that it computes at
    once.
    """
    calls: list[tuple[int, int]] = []
    original = trl.trainer.utils._ChunkedLogProbFunction

    class Spy:
        @staticmethod
        def apply(states: torch.Tensor, *args: Any) -> Any:
            calls.append((states.size(0), args[4]))
            return original.apply(states, *args)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Spy)
    return calls


def test_the_head_sees_labelled_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, TRL itself passes all fourteen; here the head gets the five that are scored, in smaller tiles."""
    policy, rows, calls = model(), batch(), spied(monkeypatch)
    policy(**rows, fused_lm_head=True)
    over_labels(policy, rows, SCORED)
    assert calls == [(14, 32768), (5, 2048)]


def test_its_results_are_trls() -> None:
    """All results of TRL's head, and the gradient of every parameter, are equal."""
    theirs, ours, rows = model(), model(), batch()
    expected = theirs(**rows, fused_lm_head=True)
    found = over_labels(ours, rows, SCORED)
    assert found.log_probs.shape == (1, 5)
    found = spread(found, SLOTS, (2, 8))
    for name in OUTPUTS:
        assert torch.allclose(found[name].float(), expected[name].float(), atol=1e-6), name
        assert found[name].dtype == expected[name].dtype, name
    assert torch.equal(found.label_mask, expected.label_mask)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    (expected.log_probs.sum() + expected.entropy.sum()).backward()
    (found.log_probs.sum() + found.entropy.sum()).backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-5, atol=1e-6), name


def test_log_probabilities_are_those_of_the_logits() -> None:
    """They are computed from a plain forward's logits: log softmax at the label."""
    policy, rows = model(), batch()
    with torch.no_grad():
        logps = tiny.model()(rows["input_ids"], attention_mask=rows["attention_mask"]).logits.log_softmax(dim=-1)
        found = over_labels(policy, rows, SCORED).log_probs[0].tolist()
    places = [(0, 5), (0, 6), (0, 7), (1, 4), (1, 5)]
    expected = [float(logps[row, column - 1, rows["input_ids"][row, column]]) for row, column in places]
    assert found == pytest.approx(expected, abs=1e-5)


def test_results_are_left_as_they_are_where_they_have_no_columns() -> None:
    """The loss is finite, and outputs that were not asked for are absent."""
    output = FusedCausalLMOutput(loss=torch.tensor(2.0), log_probs=torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    found = spread(output, SLOTS, (2, 8))
    assert float(found.loss) == 2.0
    assert found.entropy is None
    assert found.log_probs.tolist() == [[0, 0, 0, 0, 1, 2, 3], [0, 0, 0, 4, 5, 0, 0]]


def test_no_label_at_all_has_no_gradient() -> None:
    """A batch whose responses were all truncated away contributes 0, as with TRL's head, and does not fail."""
    policy, rows = model(), batch()
    rows["labels"].fill_(-100)
    output = spread(over_labels(policy, rows, []), SLOTS[:0], (2, 8))
    assert output.log_probs.tolist() == [[0.0] * 7] * 2
    output.log_probs.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in policy.parameters())


def test_trl_still_has_the_tile_that_is_made_smaller() -> None:
    """If an upgrade renamed it, training on a CPU would silently become slower."""
    assert getattr(trl.trainer.utils, TILE) > CPU_TILE


def test_the_backbone_and_trls_tile_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are restored after the context, and after an exception within it."""
    policy, rows, calls = model(), batch(), spied(monkeypatch)
    before = policy(**rows, fused_lm_head=True).log_probs
    for fails in (False, True):
        try:
            with labelled_positions(policy.base_model, torch.tensor([0])):
                assert getattr(trl.trainer.utils, TILE) == CPU_TILE
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert getattr(trl.trainer.utils, TILE) == 32768
        assert torch.equal(policy(**rows, fused_lm_head=True).log_probs, before)
    assert calls == [(14, 32768)] * 3


def test_a_tile_that_is_smaller_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.trainer.utils, TILE, 100)
    with labelled_positions(tiny.model().base_model, torch.tensor([0])):
        assert getattr(trl.trainer.utils, TILE) == 100
    assert getattr(trl.trainer.utils, TILE) == 100


def test_without_the_tile_only_speed_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of TRL may not have it; the context then neither fails nor creates one."""
    monkeypatch.delattr(trl.trainer.utils, TILE)
    with labelled_positions(tiny.model().base_model, torch.tensor([0])):
        assert not hasattr(trl.trainer.utils, TILE)
    assert not hasattr(trl.trainer.utils, TILE)
