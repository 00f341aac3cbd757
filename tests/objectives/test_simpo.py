"""SimPO's values and gradients match independent arithmetic."""

import pytest
import torch

from log_ratios import PAIRS, gradients, logistic, logps, softplus
from spin_trl.objectives.simpo import simpo

pytestmark = pytest.mark.numeric


def test_simpo_by_hand() -> None:
    """For -6 over 3 tokens and -10 over 4, the gap is 0.5 per token; 2 * 0.5 minus the margin 0.5 is 0.5: log(1 +
    e^-0.5).
    """
    loss = simpo(logps(-6.0), logps(-10.0), torch.tensor([3]), torch.tensor([4]), beta=2.0, gamma=0.5)
    assert loss.item() == pytest.approx(0.47407698418010663, rel=1e-12)
    without_margin = simpo(logps(-6.0), logps(-10.0), torch.tensor([3]), torch.tensor([4]), beta=2.0, gamma=0.0)
    assert without_margin.item() == pytest.approx(0.31326168751822286, rel=1e-12)


def test_an_empty_response_counts_one_token_for_simpo() -> None:
    """There is no division by 0; its log-likelihood is a sum over nothing, or only over its end."""
    empty, one = (
        simpo(logps(-3.0, -6.0), logps(-1.5, 0.0), lengths, lengths.flip(0), beta=2.0, gamma=0.5)
        for lengths in (torch.tensor([0, 6]), torch.tensor([1, 6]))
    )
    assert empty.tolist() == one.tolist()
    # -3 over one token against -1.5 over six, and -1 per token against 0 over one.
    assert one.tolist() == pytest.approx([softplus(0.5 - 2 * (-3 + 0.25)), softplus(0.5 + 2)], rel=1e-12)


@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_simpo_pushes_by_the_token(r: float, generated: float) -> None:
    """The gradient is -beta * sigma(gamma - beta * gap) over the real response's length up, and over the generated
    one's down.
    """
    lengths = torch.tensor([4]), torch.tensor([10])
    up, down = gradients(lambda real, gen: simpo(real, gen, *lengths, beta=2.0, gamma=0.5), logps(r), logps(generated))
    push = 2 * logistic(0.5 - 2 * (r / 4 - generated / 10))
    assert (up[0], down[0]) == pytest.approx((-push / 4, push / 10), rel=1e-8)
