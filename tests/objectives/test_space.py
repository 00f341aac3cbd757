"""SPACE's values and gradients match independent arithmetic."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from log_ratios import logps, of_logps, softplus, space_of
from messages import refused
from spin_trl.objectives.space import space

pytestmark = pytest.mark.numeric


def paper(r: float, generated: float, mu: float) -> mpmath.mpf:
    """Compute SPACE as the paper writes it (arXiv 2512.07175): -log sigma_mu(r) - mu * log sigma_{1/mu}(-r')."""

    def sigma(m: mpmath.mpf, z: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + m * mpmath.exp(-z))

    r, generated, mu = mpmath.mpf(r), mpmath.mpf(generated), mpmath.mpf(mu)
    return -mpmath.log(sigma(mu, r)) - mu * mpmath.log(sigma(1 / mu, -generated))


def test_space_starts_at_two_ln_two() -> None:
    """At an iteration's first step, every log-ratio is 0."""
    same = logps(-12.5, -3.0)
    assert of_logps(space, same, same - 1, same, same - 1).tolist() == pytest.approx(
        [1.3862943611198906] * 2, rel=1e-15
    )


@pytest.mark.parametrize(
    ("mu", "expected"), [(0.5, 0.954771252442219), (3.0, 2.24934057847523), (7.0, 3.01416129005149)]
)
def test_space_starts_at_a_known_value_for_every_mu(mu: float, expected: float) -> None:
    """It is log(1 + mu) + mu * log(1 + 1 / mu)."""
    assert expected == pytest.approx(math.log(1 + mu) + mu * math.log(1 + 1 / mu), rel=1e-12)
    assert space_of(logps(0.0), logps(0.0), mu).item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    r=st.floats(-600, 600),
    generated=st.floats(-600, 600),
    mu=st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 8.0]),
)
def test_space_is_the_papers_formula(r: float, generated: float, mu: float) -> None:
    """It is compared term by term to 60 digits, where the paper's own form would overflow in floating point."""
    expected = float(paper(r, generated, mu))
    # torch's softplus is linear above 20, which is off by exp(-20) at most.
    assert space_of(logps(r), logps(generated), mu).item() == pytest.approx(expected, rel=1e-12, abs=(1 + mu) * 2.1e-9)


def test_space_by_hand() -> None:
    """Log-ratios 1 and -2 give log(1 + e^-1) + log(1 + e^-2) = 0.313262 + 0.126928."""
    loss = of_logps(space, logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    assert loss.item() == pytest.approx(0.4401897, abs=1e-7)


def test_space_depends_on_log_ratios_alone() -> None:
    """The opponent's own level does not matter, and the two responses are not traded against each other."""
    a = of_logps(space, logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    b = of_logps(space, logps(-109.0), logps(-57.0), logps(-110.0), logps(-55.0))
    assert a.item() == pytest.approx(b.item(), rel=1e-12)
    wider = space_of(logps(1.0 + 3.0), logps(-2.0 + 3.0))  # the same gap, with everything likelier
    assert wider.item() != pytest.approx(a.item(), rel=0.1)


def test_space_gives_one_loss_a_pair() -> None:
    """Every pair has its own loss, independent of the others."""
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
    """With mu = 1, it pushes as strongly up as down."""
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
    assert torch.autograd.gradcheck(lambda *four: of_logps(space, *four, mu=mu), inputs)
    assert torch.autograd.gradgradcheck(lambda *four: of_logps(space, *four, mu=mu), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_space_stays_finite(dtype: torch.dtype, mu: float) -> None:
    """At log-ratios of 10,000 nats, in the formats that models train in, neither the loss nor its gradient overflows."""
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
    """mu is the number of responses."""
    with refused(ValueError, "`mu`", mu, "positive"):
        space_of(logps(0.0), logps(0.0), mu)


@pytest.mark.parametrize("num_generations", [1, 2, 5])
def test_pairs_of_one_prompt_are_the_papers_loss_of_the_prompt(num_generations: int) -> None:
    """With K generations and mu = K, the mean over the K pairs is the real term once plus the sum of the generated terms."""
    real, generated = -0.7, [0.4, -3.0, 1.1, 0.0, 6.0][:num_generations]
    log_k = math.log(num_generations)
    expected = softplus(log_k - real) + sum(softplus(value - log_k) for value in generated)
    rows = space_of(logps(*[real] * num_generations), logps(*generated), float(num_generations))
    assert rows.mean().item() == pytest.approx(expected, rel=1e-12)
