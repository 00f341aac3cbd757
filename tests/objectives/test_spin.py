"""SPIN's values and gradients match independent arithmetic."""

from functools import partial

import pytest

from log_ratios import PAIRS, gradients, logistic, logps, of_logps
from spin_trl.objectives.spin import sigmoid

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_spin_starts_at_ln_two(beta: float) -> None:
    """At an iteration's first step, every log-ratio is 0, so beta has no effect."""
    same = logps(-12.5, -3.0)
    assert of_logps(sigmoid, same, same - 1, same, same - 1, beta=beta).tolist() == pytest.approx(
        [0.6931471805599453] * 2
    )


def test_spin_by_hand() -> None:
    """Log-ratios 1 and -2 with beta 0.1 give log(1 + e^-0.3)."""
    loss = of_logps(sigmoid, logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0), beta=0.1)
    assert loss.item() == pytest.approx(0.5543552444685272, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_spin_weighs_both_responses_alike(r: float, generated: float, beta: float) -> None:
    """It is -beta * sigma(-beta * (r - r')) up, and the same down: only the gap counts."""
    up, down = gradients(partial(sigmoid, beta=beta), logps(r), logps(generated))
    push = beta * logistic(-beta * (r - generated))
    assert (up[0], down[0]) == pytest.approx((-push, push), rel=1e-8)
