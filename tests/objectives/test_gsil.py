"""GSIL's values and gradients match independent arithmetic."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import mpmath
import pytest
import torch

from log_ratios import PAIRS, gradients, logps, space_of
from spin_trl.objectives.gsil import GSIL_LOSSES, gsil

pytestmark = pytest.mark.numeric


GSIL: Mapping[str, Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]] = {
    "bernoulli": lambda s, g: mpmath.log(1 + mpmath.exp(-s)) + mpmath.log(1 + mpmath.exp(g)),
    "brier": lambda s, g: (1 / (1 + mpmath.exp(-s)) - 1) ** 2 + (1 / (1 + mpmath.exp(-g))) ** 2,
    "hinge": lambda s, g: max(0, 1 - s) + max(0, 1 + g),
    "kliep": lambda s, g: mpmath.exp(g) - s,
    "lsif": lambda s, g: mpmath.exp(2 * g) / 2 - mpmath.exp(s),
}
"""As in methods.md, from the paper's code: losses of the scores s and s'."""


@pytest.mark.parametrize("divergence", GSIL)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 2.0), (0.5, -1.0)])
def test_gsil_is_the_papers_code(divergence: str, scale: float, shift: float) -> None:
    """Each of its losses is compared, on scaled and shifted log-ratios."""
    # Beyond an exponent of 10 the exponentials are straight lines, as another test shows.
    pairs = [
        (r, g)
        for r, g in [*PAIRS, (12.0, -12.0), (-25.0, 13.0)]
        if divergence not in ("kliep", "lsif") or max(scale * r + shift, 2 * (scale * g + shift)) < 10
    ]
    real, generated = (logps(*values) for values in zip(*pairs, strict=True))
    found = gsil(real, generated, divergence=divergence, scale=scale, shift=shift)
    expected = [
        float(GSIL[divergence](mpmath.mpf(scale) * r + shift, mpmath.mpf(scale) * g + shift)) for r, g in pairs
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-11, abs=4e-9)


def test_gsil_has_five_losses() -> None:
    """No other name is accepted."""
    assert set(GSIL_LOSSES) == set(GSIL)


def test_gsil_with_bernoulli_is_space() -> None:
    """They are equal with scale 1 and shift 0, at mu = 1."""
    real, generated = torch.cartesian_prod(*[logps(-300.0, -4.0, 0.0, 0.5, 7.0, 300.0)] * 2).T
    bernoulli = gsil(real, generated, divergence="bernoulli", scale=1.0, shift=0.0)
    assert bernoulli.tolist() == space_of(real, generated).tolist()


def test_brier_keeps_its_digits_where_a_response_is_told_apart() -> None:
    """(sigmoid(40) - 1)^2 is e^-80, not 0."""
    brier, far = partial(gsil, divergence="brier", scale=1.0, shift=0.0), (logps(40.0), logps(-400.0))
    assert brier(*far).item() == pytest.approx(math.exp(-80), rel=1e-9)
    assert gradients(brier, *far)[0][0] == pytest.approx(-2 * math.exp(-80), rel=1e-9)


@pytest.mark.parametrize(
    ("divergence", "side", "rate", "factor"),
    [("kliep", 1, 1.0, 1.0), ("lsif", 1, 2.0, 0.5), ("lsif", 0, 1.0, -1.0)],
    ids=["kliep generated", "lsif generated", "lsif real"],
)
def test_exponentials_go_on_as_straight_lines(divergence: str, side: int, rate: float, factor: float) -> None:
    """Above an exponent of 10, value and slope are e^10's at the joint, and the slope stays constant."""
    loss_of = partial(gsil, divergence=divergence, scale=1.0, shift=0.0)
    e10 = float(mpmath.exp(10))

    def term(exponent: float) -> tuple[float, float]:
        """Return the exponential alone, divided by its factor, and its slope in the exponent."""
        pair = [logps(0.0), logps(-1e9)] if side == 0 else [logps(0.0), logps(0.0)]
        pair[side] = logps(exponent / rate)
        rest = {("kliep", 1): 0.0, ("lsif", 1): -1.0, ("lsif", 0): 0.0}[divergence, side]
        return (
            (loss_of(*pair).item() - rest) / factor,
            gradients(loss_of, *pair)[side][0] / (factor * rate),
        )

    for exponent, value in ((9.0, float(mpmath.exp(9))), (10 - 1e-9, e10), (10.0, e10), (10 + 1e-9, e10)):
        assert term(exponent) == pytest.approx((value, value), rel=1e-8)
    for above in (1.0, 70.0, 1e4):
        assert term(10 + above) == pytest.approx((e10 * (1 + above), e10), rel=1e-12)
