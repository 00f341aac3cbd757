"""SPIF's values and gradients match independent arithmetic."""

from functools import partial

import pytest

from log_ratios import PAIRS, gradients, logps, of_logps
from spin_trl.objectives.spif import spif

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("bound", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_spif_starts_at_its_bound(bound: float, scale: float) -> None:
    """It is 1 / c, for any scale: (c / 2) * (1 / c^2 + 1 / c^2)."""
    same = logps(-12.5, -3.0)
    loss = of_logps(spif, same, same - 1, same, same - 1, reward_scale=scale, reward_bound=bound)
    assert loss.tolist() == pytest.approx([bound] * 2, rel=1e-12)


def test_spif_by_hand() -> None:
    """Log-ratios 1 and -2, scale 0.5 and bound 2, so c = 1/2, give ((0.5 - 2)^2 + (-1 + 2)^2) / 4."""
    loss = of_logps(spif, logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0), reward_scale=0.5, reward_bound=2.0)
    assert loss.item() == pytest.approx(0.8125, rel=1e-12)


@pytest.mark.parametrize(("scale", "bound"), [(0.1, 1.0), (1.0, 0.5), (0.3, 4.0)])
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_spif_pushes_less_the_nearer_the_bound(r: float, generated: float, scale: float, bound: float) -> None:
    """The push is b * c * (R -+ 1/c), and zero where the rewards are at their bounds."""
    up, down = gradients(partial(spif, reward_scale=scale, reward_bound=bound), logps(r), logps(generated))
    c = 1 / bound
    expected = (scale * c * (scale * r - 1 / c), scale * c * (scale * generated + 1 / c))
    assert (up[0], down[0]) == pytest.approx(expected, rel=1e-12)
    at_rest = gradients(
        partial(spif, reward_scale=scale, reward_bound=bound), logps(bound / scale), logps(-bound / scale)
    )
    assert at_rest == [[pytest.approx(0, abs=1e-15)], [pytest.approx(0, abs=1e-15)]]
