"""T-SPIN's values and gradients match independent arithmetic."""

from functools import partial

import pytest
import torch

from log_ratios import gradients, logistic, logps
from messages import refused
from spin_trl.objectives.spin import sigmoid
from spin_trl.objectives.tspin import tspin

pytestmark = pytest.mark.numeric


def test_tspin_by_hand() -> None:
    """Log-likelihoods -9, -10 and -12 with alpha 0.5 and beta 0.1 give log(1 + e^-0.5) + 0.1 * log(1 + e^-1)."""
    loss = tspin(logps(-9.0), logps(-10.0), logps(-12.0), alpha=0.5, beta=0.1)
    assert loss.item() == pytest.approx(0.47407698418010663 + 0.1 * 0.31326168751822286, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(
    ("real", "generated", "proto"), [(-9.0, -9.0, -9.0), (-9.0, -10.5, -8.0), (-20.0, -3.0, -7.5)]
)
def test_tspin_pushes_all_three_responses(
    real: float, generated: float, proto: float, alpha: float, beta: float
) -> None:
    """The historical advantage holds the generated response up, against that of θ_0."""
    found = gradients(partial(tspin, alpha=alpha, beta=beta), logps(real), logps(generated), logps(proto))
    current, historical = logistic(-alpha * (real - generated)), logistic(-alpha * (generated - proto))
    expected = [-alpha * current, alpha * current - alpha * beta * historical, alpha * beta * historical]
    assert [value for (value,) in found] == pytest.approx(expected, rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_tspin_without_history_is_spin_without_an_opponent(alpha: float) -> None:
    """At iteration 0 beta is 0, and alpha is SPIN's lambda; no proto response is needed."""
    real, generated = logps(-9.0, -3.0, -40.0), logps(-10.0, -30.0, -2.0)
    expected = sigmoid(real, generated, beta=alpha).tolist()
    for proto in (None, logps(-1.0, -2.0, -3.0)):
        assert tspin(real, generated, proto, alpha=alpha, beta=0.0).tolist() == expected


@pytest.mark.parametrize(("proto", "beta"), [(None, 0.1), (logps(-1.0), -0.1), (None, -0.1)])
def test_a_weight_of_the_history_needs_a_history(proto: torch.Tensor | None, beta: float) -> None:
    """It must not be negative either."""
    with refused(ValueError, "`beta`", beta, 0, "proto"):
        tspin(logps(-1.0), logps(-2.0), proto, alpha=1.0, beta=beta)
