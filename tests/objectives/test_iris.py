"""IRIS against independent arithmetic: values and gradients."""

import math
from functools import partial

import mpmath
import pytest
import torch

from log_ratios import ORDERS, PAIRS, gradients, logps, of
from spin_trl.objectives.iris import effective_sample_size, iris, iris_figures

pytestmark = pytest.mark.numeric


def renyi(real: list[float], generated: list[float], alpha: float) -> mpmath.mpf:
    """IRIS as the paper writes it (arXiv 2604.20933, eq. 5), and its limit at order 1, in 60 digits."""
    order = mpmath.mpf(alpha)
    penalty = mpmath.log(mpmath.fsum(mpmath.exp(order * z) for z in generated) / len(generated)) / order
    if order == 1:
        return penalty - mpmath.fsum(real) / len(real)
    reward = mpmath.log(mpmath.fsum(mpmath.exp((order - 1) * z) for z in real) / len(real)) / (order - 1)
    return penalty - reward


BATCH = ([0.3, -4.0, 11.0, 0.0, 2.5], [-0.2, 1.5, -30.0, 0.0, 4.0])
"""Log-ratios of five pairs."""


@pytest.mark.parametrize("alpha", ORDERS)
def test_iris_starts_at_zero(alpha: float) -> None:
    """For every order, at an iteration's first step."""
    same = logps(-12.5, -3.0, -7.0)
    assert iris(same, same - 1, same, same - 1, alpha=alpha).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("batch", [BATCH, ([600.0, -600.0, 0.0], [599.0, -1.0, -600.0])], ids=["small", "large"])
def test_iris_is_the_papers_formula(batch: tuple[list[float], list[float]], alpha: float) -> None:
    """One loss for the batch, also where the paper's exponentials would overflow."""
    loss = of(iris, logps(*batch[0]), logps(*batch[1]), alpha=alpha)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(renyi(*batch, alpha)), rel=1e-12)


@pytest.mark.parametrize("alpha", ORDERS)
def test_iris_weighs_the_pairs_by_their_tilted_log_ratios(alpha: float) -> None:
    """Eq. 7 and 8: softmax((alpha - 1) * r) up and softmax(alpha * r') down, which sum to -1 and +1."""
    up, down = gradients(partial(of, iris, alpha=alpha), *(logps(*values) for values in BATCH))
    for found, values, sign, tilt in ((up, BATCH[0], -1, alpha - 1), (down, BATCH[1], 1, alpha)):
        weights = [mpmath.exp(mpmath.mpf(tilt) * z) for z in values]
        expected = [sign * float(weight / mpmath.fsum(weights)) for weight in weights]
        assert found == pytest.approx(expected, rel=1e-10)
        assert sum(found) == pytest.approx(sign, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.9991, 0.99999, 1 - 1e-12, 1.0, 1 + 1e-12, 1.00001, 1.0009])
def test_iris_of_an_order_near_one_is_its_limit(alpha: float) -> None:
    """The mean of r, where the formula itself divides by nearly nothing; the gradient is that of the mean."""
    loss = of(iris, *(logps(*values) for values in BATCH), alpha=alpha)
    penalty = float(renyi([0.0], BATCH[1], alpha))
    assert loss.item() == pytest.approx(penalty - math.fsum(BATCH[0]) / 5, rel=1e-12)
    up, down = gradients(partial(of, iris, alpha=alpha), *(logps(*values) for values in BATCH))
    assert up == pytest.approx([-0.2] * 5, rel=1e-12)
    assert all(map(math.isfinite, down))


@pytest.mark.parametrize("edge", [0.999, 1.001])
def test_iris_is_continuous_where_its_limit_begins(edge: float) -> None:
    """The step is at most half of 1e-3 times the variance of r, and a little: the next term of the expansion."""
    real, generated = (logps(*values) for values in BATCH)
    inside, outside = (1 + (edge - 1) * factor for factor in (0.9999, 1.0001))
    step = of(iris, real, generated, alpha=outside).item() - of(iris, real, generated, alpha=inside).item()
    assert abs(step) <= 1.05 * 0.0005 * real.var(correction=0).item()
    for alpha in (inside, outside):
        assert of(iris, real, generated, alpha=alpha).item() == pytest.approx(float(renyi(*BATCH, alpha)), abs=0.02)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_iris_of_one_pair_has_no_order(r: float, generated: float, alpha: float) -> None:
    """r' - r, whatever alpha is: the order acts through the pairs that stand beside each other."""
    assert of(iris, logps(r), logps(generated), alpha=alpha).item() == pytest.approx(generated - r, rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 1, 1, 1], 4.0), ([1, 1, 2], 16 / 6), ([1, 0, 0], 1.0), ([3], 1.0), ([1, 2, 3, 4], 100 / 30)],
    ids=str,
)
def test_effective_sample_size_by_hand(weights: list[int], expected: float) -> None:
    """(sum w)^2 / sum w^2, whatever the weights' common factor."""
    log_weights = torch.tensor(weights, dtype=torch.float64).log()
    for shift in (0.0, -3.0, 5e3):
        assert effective_sample_size(log_weights + shift).item() == pytest.approx(expected, rel=1e-9)


def test_figures_of_iris_by_hand() -> None:
    """Order 2: weights 1 and 2 of the real pairs, which are worth 9/5; 1 and 9 of the generated ones, worth 100/82."""
    opponent = logps(-4.0, -6.0)
    figures = iris_figures(
        opponent + logps(0.0, math.log(2)), opponent + logps(0.0, math.log(3)), opponent, opponent, alpha=2.0
    )
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(
        {"iris/alpha": 2.0, "iris/ess_real": 9 / 5, "iris/ess_generated": 100 / 82}, rel=1e-12
    )


def test_at_order_one_every_real_pair_counts_alike() -> None:
    """And order 3 of far log-ratios leaves one pair in play, which the figures show."""
    real, generated = logps(0.0, 50.0, -50.0), logps(10.0, -20.0, 300.0)
    zero = torch.zeros_like(real)
    one, three = (iris_figures(real, generated, zero, zero, alpha=alpha) for alpha in (1.0, 3.0))
    assert one["iris/ess_real"].item() == pytest.approx(3, rel=1e-12)
    assert three["iris/ess_real"].item() == pytest.approx(1, rel=1e-12)
    assert three["iris/ess_generated"].item() == pytest.approx(1, rel=1e-12)
