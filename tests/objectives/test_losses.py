"""Objectives against independent arithmetic: values, gradients, and the optimum that the papers promise."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spin_trl.objectives.losses import (
    GSIL_LOSSES,
    effective_sample_size,
    gsil,
    iris,
    iris_figures,
    logratios,
    sigmoid,
    simpo,
    space,
    spif,
    tspin,
)
from spin_trl.objectives.registry import LOSS_TYPES

pytestmark = pytest.mark.numeric

mpmath.mp.dps = 60

PAIRS = [(0.0, 0.0), (1.5, -2.0), (-7.0, 4.0), (3.0, 3.5), (-0.25, -12.0)]
"""Log-ratios of the real and of the generated response."""

ORDERS = [0.5, 0.9, 1.0, 1.5, 2.0, 3.0]


def logps(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def of(function: Callable[..., torch.Tensor], real: torch.Tensor, generated: torch.Tensor, **settings: Any):
    """The objective where the opponent's log-probabilities are 0, so that the policy's are the log-ratios."""
    return function(real, generated, torch.zeros_like(real), torch.zeros_like(generated), **settings)


def space_of(real_logratio: torch.Tensor, generated_logratio: torch.Tensor, mu: float = 1.0) -> torch.Tensor:
    """SPACE of log-ratios."""
    return of(space, real_logratio, generated_logratio, mu=mu)


def gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[list[float]]:
    """Of the summed loss, for each input."""
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    return [found.tolist() for found in torch.autograd.grad(function(*leaves).sum(), leaves)]


def logistic(z: float) -> float:
    return float(1 / (1 + mpmath.exp(-mpmath.mpf(z))))


def softplus(z: float) -> float:
    return float(mpmath.log1p(mpmath.exp(mpmath.mpf(z))))


# ---- SPACE ---------------------------------------------------------------------------------------------------------------


def paper(r: float, generated: float, mu: float) -> mpmath.mpf:
    """SPACE as the paper writes it (arXiv 2512.07175): -log sigma_mu(r) - mu * log sigma_{1/mu}(-r')."""

    def sigma(m: mpmath.mpf, z: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + m * mpmath.exp(-z))

    r, generated, mu = mpmath.mpf(r), mpmath.mpf(generated), mpmath.mpf(mu)
    return -mpmath.log(sigma(mu, r)) - mu * mpmath.log(sigma(1 / mu, -generated))


def test_space_starts_at_two_ln_two() -> None:
    """At an iteration's first step every log-ratio is 0."""
    same = logps(-12.5, -3.0)
    assert space(same, same - 1, same, same - 1).tolist() == pytest.approx([1.3862943611198906] * 2, rel=1e-15)


@pytest.mark.parametrize(
    ("mu", "expected"), [(0.5, 0.954771252442219), (3.0, 2.24934057847523), (7.0, 3.01416129005149)]
)
def test_space_starts_at_a_known_value_for_every_mu(mu: float, expected: float) -> None:
    """log(1 + mu) + mu * log(1 + 1 / mu)."""
    assert expected == pytest.approx(math.log(1 + mu) + mu * math.log(1 + 1 / mu), rel=1e-12)
    assert space_of(logps(0.0), logps(0.0), mu).item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    r=st.floats(-600, 600),
    generated=st.floats(-600, 600),
    mu=st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 8.0]),
)
def test_space_is_the_papers_formula(r: float, generated: float, mu: float) -> None:
    """Term by term in 60 digits, where the paper's own form would overflow in floating point."""
    expected = float(paper(r, generated, mu))
    # torch's softplus is linear above 20, which is off by exp(-20) at most.
    assert space_of(logps(r), logps(generated), mu).item() == pytest.approx(expected, rel=1e-12, abs=(1 + mu) * 2.1e-9)


def test_space_by_hand() -> None:
    """Log-ratios 1 and -2: log(1 + e^-1) + log(1 + e^-2) = 0.313262 + 0.126928."""
    loss = space(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    assert loss.item() == pytest.approx(0.4401897, abs=1e-7)


def test_space_depends_on_log_ratios_alone() -> None:
    """The opponent's level is not the policy's doing; the two responses are not traded against each other."""
    a = space(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    b = space(logps(-109.0), logps(-57.0), logps(-110.0), logps(-55.0))
    assert a.item() == pytest.approx(b.item(), rel=1e-12)
    wider = space_of(logps(1.0 + 3.0), logps(-2.0 + 3.0))  # the same gap, everything likelier
    assert wider.item() != pytest.approx(a.item(), rel=0.1)


def test_space_gives_one_loss_a_pair() -> None:
    """Every pair has its own, whatever stands beside it."""
    r, generated = logps(0.3, -1.0, 2.0), logps(-0.2, 0.5, 1.0)
    together = space_of(r, generated, 2.0)
    assert together.shape == (3,)
    assert together.tolist() == [space_of(r[i : i + 1], generated[i : i + 1], 2.0).item() for i in range(3)]


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("r", "generated"), [(0.0, 0.0), (1.5, -2.0), (-7.0, 4.0), (60.0, -60.0), (-60.0, 60.0)])
def test_gradients_of_space_are_those_of_the_derivation(r: float, generated: float, mu: float) -> None:
    """-mu / (mu + e^r) pushes the real response up, mu * e^r' / (mu + e^r') the generated one down."""
    real, gen = logps(r).requires_grad_(), logps(generated).requires_grad_()
    space_of(real, gen, mu).sum().backward()
    e_r, e_generated = mpmath.exp(r), mpmath.exp(generated)
    assert real.grad is not None
    assert gen.grad is not None
    assert real.grad.item() == pytest.approx(float(-mu / (mu + e_r)), rel=1e-8)
    assert gen.grad.item() == pytest.approx(float(mu * e_generated / (mu + e_generated)), rel=1e-8)


def test_space_pushes_by_one_half_at_the_start() -> None:
    """With mu = 1, as strongly up as down."""
    real, gen = logps(0.0).requires_grad_(), logps(0.0).requires_grad_()
    space_of(real, gen).sum().backward()
    assert real.grad is not None
    assert gen.grad is not None
    assert (real.grad.item(), gen.grad.item()) == (-0.5, 0.5)


@pytest.mark.parametrize("mu", [0.5, 1.0, 4.0])
def test_space_passes_gradcheck(mu: float) -> None:
    """First and second derivatives agree with finite differences, for all four inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = [(3 * torch.randn(5, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *four: space(*four, mu=mu), inputs)
    assert torch.autograd.gradgradcheck(lambda *four: space(*four, mu=mu), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_space_stays_finite(dtype: torch.dtype, mu: float) -> None:
    """Log-ratios of 10,000 nats, in the formats that models train in: no overflow in the loss or its gradient."""
    values = logps(-1e4, -300.0, -20.0, 0.0, 20.0, 300.0, 1e4, dtype=dtype)
    real, gen = (part.clone().requires_grad_() for part in torch.cartesian_prod(values, values).T)
    loss = space_of(real, gen, mu)
    loss.sum().backward()
    assert real.grad is not None
    assert gen.grad is not None
    assert loss.dtype == torch.float32
    for tensor in (loss, real.grad, gen.grad):
        assert tensor.isfinite().all()
    assert (loss >= 0).all()
    # The worst pair costs what its log-ratios say; a pair that is told apart costs nothing.
    assert loss[(real == -1e4) & (gen == 1e4)].item() == pytest.approx(1e4 * (1 + mu), rel=1e-2)
    assert loss[(real == 1e4) & (gen == -1e4)].item() == 0


@pytest.mark.parametrize("mu", [0.0, -1.0])
def test_mu_must_be_positive(mu: float) -> None:
    """It counts responses."""
    with pytest.raises(ValueError, match=f"must be positive, got {mu}"):
        space_of(logps(0.0), logps(0.0), mu)


@pytest.mark.parametrize("num_generations", [1, 2, 5])
def test_pairs_of_one_prompt_are_the_papers_loss_of_the_prompt(num_generations: int) -> None:
    """With K generations and mu = K, the mean over the K pairs is the real term once and the generated terms summed."""
    real, generated = -0.7, [0.4, -3.0, 1.1, 0.0, 6.0][:num_generations]
    log_k = math.log(num_generations)
    expected = softplus(log_k - real) + sum(softplus(value - log_k) for value in generated)
    rows = space_of(logps(*[real] * num_generations), logps(*generated), float(num_generations))
    assert rows.mean().item() == pytest.approx(expected, rel=1e-12)


# ---- SPIN ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_spin_starts_at_ln_two(beta: float) -> None:
    """At an iteration's first step every log-ratio is 0, and no beta shows."""
    same = logps(-12.5, -3.0)
    assert sigmoid(same, same - 1, same, same - 1, beta=beta).tolist() == pytest.approx([0.6931471805599453] * 2)


def test_spin_by_hand() -> None:
    """Log-ratios 1 and -2, beta 0.1: log(1 + e^-0.3)."""
    loss = sigmoid(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0), beta=0.1)
    assert loss.item() == pytest.approx(0.5543552444685272, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_spin_weighs_both_responses_alike(r: float, generated: float, beta: float) -> None:
    """-beta * sigma(-beta * (r - r')) up, as much down: only the gap counts."""
    up, down = gradients(partial(of, sigmoid, beta=beta), logps(r), logps(generated))
    push = beta * logistic(-beta * (r - generated))
    assert (up[0], down[0]) == pytest.approx((-push, push), rel=1e-8)


# ---- T-SPIN --------------------------------------------------------------------------------------------------------------


def test_tspin_by_hand() -> None:
    """Log-likelihoods -9, -10 and -12, alpha 0.5, beta 0.1: log(1 + e^-0.5) + 0.1 * log(1 + e^-1)."""
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
    expected = of(sigmoid, real, generated, beta=alpha).tolist()
    for proto in (None, logps(-1.0, -2.0, -3.0)):
        assert tspin(real, generated, proto, alpha=alpha, beta=0.0).tolist() == expected


@pytest.mark.parametrize(("proto", "beta"), [(None, 0.1), (logps(-1.0), -0.1), (None, -0.1)])
def test_a_weight_of_the_history_needs_a_history(proto: torch.Tensor | None, beta: float) -> None:
    """And is not negative."""
    with pytest.raises(ValueError, match=f"`beta` is {beta}: it must be at least 0, and 0 without proto responses"):
        tspin(logps(-1.0), logps(-2.0), proto, alpha=1.0, beta=beta)


# ---- SPIF ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_spif_starts_at_its_bound(bound: float, scale: float) -> None:
    """1 / c, whatever the scale: (c / 2) * (1 / c^2 + 1 / c^2)."""
    same = logps(-12.5, -3.0)
    loss = spif(same, same - 1, same, same - 1, reward_scale=scale, reward_bound=bound)
    assert loss.tolist() == pytest.approx([bound] * 2, rel=1e-12)


def test_spif_by_hand() -> None:
    """Log-ratios 1 and -2, scale 0.5, bound 2, so c = 1/2: ((0.5 - 2)^2 + (-1 + 2)^2) / 4."""
    loss = spif(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0), reward_scale=0.5, reward_bound=2.0)
    assert loss.item() == pytest.approx(0.8125, rel=1e-12)


@pytest.mark.parametrize(("scale", "bound"), [(0.1, 1.0), (1.0, 0.5), (0.3, 4.0)])
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_spif_pushes_less_the_nearer_the_bound(r: float, generated: float, scale: float, bound: float) -> None:
    """b * c * (R -+ 1/c): not at all where the rewards are at their bounds."""
    up, down = gradients(partial(of, spif, reward_scale=scale, reward_bound=bound), logps(r), logps(generated))
    c = 1 / bound
    expected = (scale * c * (scale * r - 1 / c), scale * c * (scale * generated + 1 / c))
    assert (up[0], down[0]) == pytest.approx(expected, rel=1e-12)
    at_rest = gradients(
        partial(of, spif, reward_scale=scale, reward_bound=bound), logps(bound / scale), logps(-bound / scale)
    )
    assert at_rest == [[pytest.approx(0, abs=1e-15)], [pytest.approx(0, abs=1e-15)]]


# ---- IRIS ----------------------------------------------------------------------------------------------------------------


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


# ---- SimPO ---------------------------------------------------------------------------------------------------------------


def test_simpo_by_hand() -> None:
    """-6 of 3 tokens against -10 of 4: the gap is 0.5 a token; 2 * 0.5 less the margin 0.5 is 0.5: log(1 + e^-0.5)."""
    loss = simpo(logps(-6.0), logps(-10.0), torch.tensor([3]), torch.tensor([4]), beta=2.0, gamma=0.5)
    assert loss.item() == pytest.approx(0.47407698418010663, rel=1e-12)
    without_margin = simpo(logps(-6.0), logps(-10.0), torch.tensor([3]), torch.tensor([4]), beta=2.0, gamma=0.0)
    assert without_margin.item() == pytest.approx(0.31326168751822286, rel=1e-12)


def test_an_empty_response_counts_one_token_for_simpo() -> None:
    """No division by 0; its log-likelihood is a sum over nothing, or over its end alone."""
    empty, one = (
        simpo(logps(-3.0, -6.0), logps(-1.5, 0.0), lengths, lengths.flip(0), beta=2.0, gamma=0.5)
        for lengths in (torch.tensor([0, 6]), torch.tensor([1, 6]))
    )
    assert empty.tolist() == one.tolist()
    # -3 of one token against -1.5 of six, and -1 a token against 0 of one.
    assert one.tolist() == pytest.approx([softplus(0.5 - 2 * (-3 + 0.25)), softplus(0.5 + 2)], rel=1e-12)


@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_simpo_pushes_by_the_token(r: float, generated: float) -> None:
    """-beta * sigma(gamma - beta * gap) over the real response's length up, over the generated one's down."""
    lengths = torch.tensor([4]), torch.tensor([10])
    up, down = gradients(lambda real, gen: simpo(real, gen, *lengths, beta=2.0, gamma=0.5), logps(r), logps(generated))
    push = 2 * logistic(0.5 - 2 * (r / 4 - generated / 10))
    assert (up[0], down[0]) == pytest.approx((-push / 4, push / 10), rel=1e-8)


# ---- GSIL ----------------------------------------------------------------------------------------------------------------


GSIL: Mapping[str, Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]] = {
    "bernoulli": lambda s, g: mpmath.log(1 + mpmath.exp(-s)) + mpmath.log(1 + mpmath.exp(g)),
    "brier": lambda s, g: (1 / (1 + mpmath.exp(-s)) - 1) ** 2 + (1 / (1 + mpmath.exp(-g))) ** 2,
    "hinge": lambda s, g: max(0, 1 - s) + max(0, 1 + g),
    "kliep": lambda s, g: mpmath.exp(g) - s,
    "lsif": lambda s, g: mpmath.exp(2 * g) / 2 - mpmath.exp(s),
}
"""As methods.md writes them, from the paper's code: losses of the scores s and s'."""


@pytest.mark.parametrize("divergence", GSIL)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 2.0), (0.5, -1.0)])
def test_gsil_is_the_papers_code(divergence: str, scale: float, shift: float) -> None:
    """Each of its losses, of scaled and shifted log-ratios."""
    # Beyond an exponent of 10 the exponentials are straight lines, as another test says.
    pairs = [
        (r, g)
        for r, g in [*PAIRS, (12.0, -12.0), (-25.0, 13.0)]
        if divergence not in ("kliep", "lsif") or max(scale * r + shift, 2 * (scale * g + shift)) < 10
    ]
    real, generated = (logps(*values) for values in zip(*pairs, strict=True))
    found = of(gsil, real, generated, divergence=divergence, scale=scale, shift=shift)
    expected = [
        float(GSIL[divergence](mpmath.mpf(scale) * r + shift, mpmath.mpf(scale) * g + shift)) for r, g in pairs
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-11, abs=4e-9)


def test_gsil_has_five_losses() -> None:
    """And no other name."""
    assert set(GSIL_LOSSES) == set(GSIL)


def test_gsil_with_bernoulli_is_space() -> None:
    """With scale 1 and shift 0, at mu = 1."""
    real, generated = torch.cartesian_prod(*[logps(-300.0, -4.0, 0.0, 0.5, 7.0, 300.0)] * 2).T
    bernoulli = of(gsil, real, generated, divergence="bernoulli", scale=1.0, shift=0.0)
    assert bernoulli.tolist() == space_of(real, generated).tolist()


def test_brier_keeps_its_digits_where_a_response_is_told_apart() -> None:
    """(sigmoid(40) - 1)^2 is e^-80, not 0."""
    brier, far = partial(of, gsil, divergence="brier", scale=1.0, shift=0.0), (logps(40.0), logps(-400.0))
    assert brier(*far).item() == pytest.approx(math.exp(-80), rel=1e-9)
    assert gradients(brier, *far)[0][0] == pytest.approx(-2 * math.exp(-80), rel=1e-9)


@pytest.mark.parametrize(
    ("divergence", "side", "rate", "factor"),
    [("kliep", 1, 1.0, 1.0), ("lsif", 1, 2.0, 0.5), ("lsif", 0, 1.0, -1.0)],
    ids=["kliep generated", "lsif generated", "lsif real"],
)
def test_exponentials_go_on_as_straight_lines(divergence: str, side: int, rate: float, factor: float) -> None:
    """Above an exponent of 10: value and slope are e^10's at the joint, and the slope stays."""
    loss_of = partial(of, gsil, divergence=divergence, scale=1.0, shift=0.0)
    e10 = float(mpmath.exp(10))

    def term(exponent: float) -> tuple[float, float]:
        """The exponential alone, divided by its factor, and its slope in the exponent."""
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


# ---- every objective -----------------------------------------------------------------------------------------------------


DOUBLES: Mapping[str, tuple[Callable[..., torch.Tensor], int]] = {
    "sigmoid": (partial(sigmoid, beta=0.5), 4),
    "space": (partial(space, mu=3.0), 4),
    "tspin": (partial(tspin, alpha=0.7, beta=0.3), 3),
    "tspin without history": (lambda real, generated: tspin(real, generated, None, alpha=0.7, beta=0.0), 2),
    "spif": (partial(spif, reward_scale=0.3, reward_bound=2.0), 4),
    **{f"iris of order {alpha}": (partial(iris, alpha=alpha), 4) for alpha in ORDERS},
    "simpo": (
        lambda real, generated: simpo(
            real, generated, torch.tensor([1, 2, 3, 4, 0]), torch.tensor([5, 0, 1, 2, 2]), beta=2.0, gamma=0.5
        ),
        2,
    ),
    **{f"gsil_{name}": (partial(gsil, divergence=name, scale=0.5, shift=0.3), 4) for name in GSIL},
}


@pytest.mark.parametrize("name", DOUBLES)
def test_every_objective_passes_gradcheck(name: str) -> None:
    """Its derivatives agree with finite differences, for all its inputs."""
    function, count = DOUBLES[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [(3 * torch.randn(5, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(count)]
    assert torch.autograd.gradcheck(function, inputs)


def tensors_of(real: torch.Tensor, generated: torch.Tensor) -> dict[str, torch.Tensor]:
    """What any objective takes, where everything but the policy's two is 0, and responses have one token."""
    zero, one = torch.zeros_like(real), torch.ones_like(real, dtype=torch.long)
    return {
        "policy_real_logps": real,
        "policy_generated_logps": generated,
        "opponent_real_logps": zero,
        "opponent_generated_logps": zero,
        "policy_proto_logps": zero,
        "real_lengths": one,
        "generated_lengths": one,
    }


@pytest.mark.parametrize("name", LOSS_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_objective_stays_finite(name: str, dtype: torch.dtype) -> None:
    """With its published settings, at log-ratios of 10,000 nats, in the formats that models train in."""
    values = logps(-1e4, -300.0, -20.0, 0.0, 20.0, 300.0, 1e4, dtype=dtype)
    real, generated = (part.clone().requires_grad_() for part in torch.cartesian_prod(values, values).T)
    loss = LOSS_TYPES[name](tensors_of(real, generated), LOSS_TYPES[name].settings)
    up, down = torch.autograd.grad(loss.sum(), [real, generated])
    assert loss.isfinite().all()
    assert up.isfinite().all()
    assert down.isfinite().all()
    for figure in LOSS_TYPES[name].measure(tensors_of(real, generated), LOSS_TYPES[name].settings).values():
        assert figure.isfinite()


@pytest.mark.parametrize("name", LOSS_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    """The loss is that of the same numbers in float32, to the last bit."""
    generator = torch.Generator().manual_seed(2)
    real, generated = (30 * torch.randn(2, 16, generator=generator)).to(dtype)
    loss_type = LOSS_TYPES[name]
    half = loss_type(tensors_of(real, generated), loss_type.settings)
    assert half.dtype == torch.float32
    assert half.tolist() == loss_type(tensors_of(real.float(), generated.float()), loss_type.settings).tolist()


@pytest.mark.parametrize("name", [name for name, found in LOSS_TYPES.items() if not found.couples_pairs])
def test_every_objective_but_iris_gives_one_loss_a_pair(name: str) -> None:
    """Every pair has its own, whatever stands beside it."""
    real, generated, loss_type = logps(0.3, -1.0, 2.0), logps(-0.2, 0.5, 1.0), LOSS_TYPES[name]
    together = loss_type(tensors_of(real, generated), loss_type.settings)
    alone = [loss_type(tensors_of(real[i : i + 1], generated[i : i + 1]), loss_type.settings).item() for i in range(3)]
    assert together.tolist() == pytest.approx(alone, rel=1e-14)


def test_log_ratios_are_policy_less_opponent() -> None:
    """r of the real responses, then r' of the generated ones."""
    real, generated = logratios(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    assert (real.tolist(), generated.tolist()) == ([1.0], [-2.0])


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize(
    ("setting", "function"),
    [
        ("alpha", lambda value: tspin(logps(0.0), logps(0.0), None, alpha=value, beta=0.0)),
        ("reward_scale", lambda value: of(spif, logps(0.0), logps(0.0), reward_scale=value, reward_bound=1.0)),
        ("reward_bound", lambda value: of(spif, logps(0.0), logps(0.0), reward_scale=1.0, reward_bound=value)),
        ("alpha", lambda value: of(iris, logps(0.0), logps(0.0), alpha=value)),
        ("beta", lambda value: of(simpo, logps(0.0), logps(0.0), beta=value, gamma=0.0)),
    ],
    ids=["tspin", "spif's scale", "spif's bound", "iris", "simpo"],
)
def test_scales_and_orders_must_be_positive(
    setting: str, function: Callable[[float], torch.Tensor], value: float
) -> None:
    """With the argument's name and the value."""
    with pytest.raises(ValueError, match=f"`{setting}` must be positive, got {value}"):
        function(value)


# ---- where the objectives come to rest: every response, every expectation exact -----------------------------------------


DATA, OPPONENT = logps(0.30, 0.05, 0.25, 0.10, 0.30), logps(0.10, 0.25, 0.15, 0.40, 0.10)
"""Distributions over five responses, in twentieths."""


def expected(function: Callable[..., torch.Tensor], data: torch.Tensor, opponent: torch.Tensor):
    """The expected loss of a policy, as a function of its logits.

    Real responses come from `data`, generated ones from `opponent`, independently: a loss of pairs is summed over all
    pairs with their probabilities. A loss of batches is that of a batch that has every response as often as it is likely.
    """

    def of_logits(logits: torch.Tensor) -> torch.Tensor:
        policy, before = logits.log_softmax(0), opponent.log()
        if function is iris or getattr(function, "func", None) is iris:
            real, generated = (
                torch.arange(len(p)).repeat_interleave((20 * p).round().long()) for p in (data, opponent)
            )
            assert len(real) == len(generated) == 20
        else:
            real, generated = torch.cartesian_prod(*[torch.arange(len(data))] * 2).T
        loss = function(policy[real], policy[generated], before[real], before[generated])
        return loss if loss.ndim == 0 else (data[real] * opponent[generated] * loss).sum()

    return of_logits


def gradient_at(loss_of: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor) -> torch.Tensor:
    leaf = point.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_of(leaf), leaf)[0]


def minimiser(loss_of: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Where the loss is least, from a start."""
    point = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=1000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(point)
        loss.backward()
        return loss

    optimizer.step(closure)
    return point.detach()


def distributions(count: int, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, dtype=torch.float64, generator=generator).softmax(dim=1)


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_the_data_is_where_space_comes_to_rest(mu: float) -> None:
    """Theorem 2 of the paper: over all responses, the expected loss has its only minimum at p_theta = p_data."""
    data, opponent, start = distributions(3)
    loss_of = expected(partial(space, mu=mu), data, opponent)
    assert gradient_at(loss_of, data.log()).abs().max().item() < 1e-12
    for logits in (start.log(), opponent.log()):
        assert minimiser(loss_of, logits).softmax(0).tolist() == pytest.approx(data.tolist(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_data_is_where_iris_comes_to_rest(alpha: float) -> None:
    """Proposition 1 of the paper: at p_theta = p_data, at -1/alpha times the Rényi divergence of the data from p_t."""
    loss_of = expected(partial(iris, alpha=alpha), DATA, OPPONENT)
    assert gradient_at(loss_of, DATA.log()).abs().max().item() < 1e-12
    for logits in (OPPONENT.log(), torch.zeros(5, dtype=torch.float64), -DATA.log()):
        assert minimiser(loss_of, logits).softmax(0).tolist() == pytest.approx(DATA.tolist(), abs=1e-6)
    pairs = list(zip(DATA.tolist(), OPPONENT.tolist(), strict=True))
    divergence = (
        math.fsum(p * math.log(p / q) for p, q in pairs)
        if alpha == 1
        else math.log(math.fsum(p**alpha * q ** (1 - alpha) for p, q in pairs)) / (alpha - 1)
    )
    assert loss_of(DATA.log()).item() == pytest.approx(-divergence / alpha, rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 5.0])
def test_spin_goes_a_part_of_the_way_to_the_data(beta: float) -> None:
    """Theorem 5.4 of the paper: to p_t * (p_data / p_t)^(1/lambda), so a larger lambda is a smaller step."""
    data, opponent, start = distributions(3)
    loss_of = expected(partial(sigmoid, beta=beta), data, opponent)
    target = [p * (q / p) ** (1 / beta) for q, p in zip(data.tolist(), opponent.tolist(), strict=True)]
    target = [value / math.fsum(target) for value in target]
    assert gradient_at(loss_of, logps(*target).log()).abs().max().item() < 1e-12
    for logits in (start.log(), opponent.log()):
        assert minimiser(loss_of, logits).softmax(0).tolist() == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize(("scale", "bound"), [(0.1, 1.0), (1.0, 0.5), (0.5, 4.0)])
def test_the_step_of_spif_is_bounded(scale: float, bound: float) -> None:
    """Over unconstrained log-ratios the rewards come to (p_data - p_t) / (c * (p_data + p_t)), at most 1 / c."""
    data, opponent = logps(0.7, 0.0, 0.2, 0.1), logps(0.0, 0.4, 0.2, 0.4)
    c = 1 / bound

    def loss_of(ratios: torch.Tensor) -> torch.Tensor:
        """The loss of a pair is a sum of a real and a generated term; a term is alone where the other is at its bound."""
        function = partial(of, spif, reward_scale=scale, reward_bound=bound)
        rest = torch.full_like(ratios, bound / scale)
        return (data * function(ratios, -rest) + opponent * function(rest, ratios)).sum()

    optimum = [(p - q) / (c * (p + q)) for p, q in zip(data.tolist(), opponent.tolist(), strict=True)]
    rewards = scale * minimiser(loss_of, torch.zeros(4, dtype=torch.float64))
    assert rewards.tolist() == pytest.approx(optimum, abs=1e-6)
    # Responses that only one of them gives are at the bounds themselves.
    assert rewards[:3].tolist() == pytest.approx([bound, -bound, 0.0], abs=1e-6)


def test_one_iteration_of_spif_moves_towards_the_data() -> None:
    """As a policy it makes every response likelier that the data has more often than the opponent, and no other."""
    after = minimiser(
        expected(partial(spif, reward_scale=0.5, reward_bound=0.5), DATA, OPPONENT), OPPONENT.log()
    ).softmax(0)
    assert ((after > OPPONENT) == (DATA > OPPONENT)).all()
    assert (DATA * (DATA / after).log()).sum() < (DATA * (DATA / OPPONENT).log()).sum()


@pytest.mark.parametrize(
    "function",
    [
        partial(sigmoid, beta=0.1),
        partial(sigmoid, beta=5.0),
        partial(space, mu=1.0),
        partial(space, mu=3.0),
        partial(spif, reward_scale=0.1, reward_bound=1.0),
        *(partial(iris, alpha=alpha) for alpha in ORDERS),
        *(partial(gsil, divergence=name, scale=1.0, shift=0.1) for name in GSIL),
    ],
    ids=lambda function: f"{function.func.__name__}-{'-'.join(map(str, function.keywords.values()))}",
)
def test_nothing_moves_where_the_opponent_is_the_data(function: Callable[..., torch.Tensor]) -> None:
    """Nobody can tell the opponent's answers from the real ones, so the policy stays."""
    loss_of = expected(function, DATA, DATA)
    assert gradient_at(loss_of, DATA.log()).abs().max().item() < 1e-12
    # A response that the data has more often becomes likelier at once (a step is against the gradient).
    uphill = gradient_at(expected(function, DATA, OPPONENT), OPPONENT.log())
    assert ((uphill < 0) == (DATA > OPPONENT)).all()
