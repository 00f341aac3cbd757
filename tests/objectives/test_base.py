"""Every objective has the promised properties and the optimum that the papers promise, compared with independent
arithmetic.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch

from log_ratios import ORDERS, logps, of_logps
from messages import refused
from spin_trl.objectives.base import logratios
from spin_trl.objectives.gsil import GSIL_LOSSES, gsil
from spin_trl.objectives.iris import iris
from spin_trl.objectives.registry import LOSS_TYPES, published
from spin_trl.objectives.simpo import simpo
from spin_trl.objectives.space import space
from spin_trl.objectives.spif import spif
from spin_trl.objectives.spin import sigmoid
from spin_trl.objectives.tspin import tspin

pytestmark = pytest.mark.numeric


# ---- every objective ------------------------------------------------------------------------------------------------


DOUBLES: Mapping[str, tuple[Callable[..., torch.Tensor], int]] = {
    "sigmoid": (partial(sigmoid, beta=0.5), 2),
    "space": (partial(space, mu=3.0), 2),
    "tspin": (partial(tspin, alpha=0.7, beta=0.3), 3),
    "tspin without history": (lambda real, generated: tspin(real, generated, None, alpha=0.7, beta=0.0), 2),
    "spif": (partial(spif, reward_scale=0.3, reward_bound=2.0), 2),
    **{f"iris of order {alpha}": (partial(iris, alpha=alpha), 2) for alpha in ORDERS},
    "simpo": (
        lambda real, generated: simpo(
            real, generated, torch.tensor([1, 2, 3, 4, 0]), torch.tensor([5, 0, 1, 2, 2]), beta=2.0, gamma=0.5
        ),
        2,
    ),
    **{f"gsil_{name}": (partial(gsil, divergence=name, scale=0.5, shift=0.3), 2) for name in GSIL_LOSSES},
}


@pytest.mark.parametrize("name", DOUBLES)
def test_every_objective_passes_gradcheck(name: str) -> None:
    """Its derivatives agree with finite differences, for all its inputs."""
    function, count = DOUBLES[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [(3 * torch.randn(5, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(count)]
    assert torch.autograd.gradcheck(function, inputs)


def tensors_of(real: torch.Tensor, generated: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return inputs for any objective: everything except the policy's two is 0, and responses have one token."""
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


def usual(name: str) -> dict[str, float]:
    """Return published settings, including SPIN's `beta`."""
    return vars(LOSS_TYPES[name].published) | published([name])


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_every_objective_agrees_with_finite_differences(name: str) -> None:
    """This uses its published settings, and the policy's log-probabilities."""
    values = torch.tensor([[0.3, -1.0, 2.0], [-0.2, 0.5, 1.0]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda both: LOSS_TYPES[name](tensors_of(*both), usual(name)), [values])


@pytest.mark.parametrize("name", LOSS_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_objective_stays_finite(name: str, dtype: torch.dtype) -> None:
    """This holds with its published settings, at log-ratios of 10,000 nats, in the formats that models train in."""
    values = logps(-1e4, -300.0, -20.0, 0.0, 20.0, 300.0, 1e4, dtype=dtype)
    real, generated = (part.clone().requires_grad_() for part in torch.cartesian_prod(values, values).T)
    loss = LOSS_TYPES[name](tensors_of(real, generated), usual(name))
    up, down = torch.autograd.grad(loss.sum(), [real, generated])
    assert loss.isfinite().all()
    assert up.isfinite().all()
    assert down.isfinite().all()
    for figure in LOSS_TYPES[name].measure(tensors_of(real, generated), usual(name)).values():
        assert figure.isfinite()


@pytest.mark.parametrize("name", LOSS_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    """The loss equals that of the same numbers in float32, to the last bit."""
    generator = torch.Generator().manual_seed(2)
    real, generated = (30 * torch.randn(2, 16, generator=generator)).to(dtype)
    loss_type, values = LOSS_TYPES[name], usual(name)
    half = loss_type(tensors_of(real, generated), values)
    assert half.dtype == torch.float32
    assert half.tolist() == loss_type(tensors_of(real.float(), generated.float()), values).tolist()


@pytest.mark.parametrize("name", [name for name, found in LOSS_TYPES.items() if not found.couples_pairs])
def test_every_objective_but_iris_gives_one_loss_a_pair(name: str) -> None:
    """Every pair has its own loss, independent of the others."""
    real, generated, loss_type = logps(0.3, -1.0, 2.0), logps(-0.2, 0.5, 1.0), LOSS_TYPES[name]
    values = usual(name)
    together = loss_type(tensors_of(real, generated), values)
    alone = [loss_type(tensors_of(real[i : i + 1], generated[i : i + 1]), values).item() for i in range(3)]
    assert together.tolist() == pytest.approx(alone, rel=1e-14)


def test_log_ratios_are_policy_less_opponent() -> None:
    """r of the real responses comes first, then r' of the generated ones."""
    real, generated = logratios(logps(-9.0), logps(-7.0), logps(-10.0), logps(-5.0))
    assert (real.tolist(), generated.tolist()) == ([1.0], [-2.0])


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize(
    ("setting", "function"),
    [
        ("alpha", lambda value: tspin(logps(0.0), logps(0.0), None, alpha=value, beta=0.0)),
        ("reward_scale", lambda value: spif(logps(0.0), logps(0.0), reward_scale=value, reward_bound=1.0)),
        ("reward_bound", lambda value: spif(logps(0.0), logps(0.0), reward_scale=1.0, reward_bound=value)),
        ("alpha", lambda value: iris(logps(0.0), logps(0.0), alpha=value)),
        ("beta", lambda value: simpo(*[logps(0.0)] * 4, beta=value, gamma=0.0)),
    ],
    ids=["tspin", "spif's scale", "spif's bound", "iris", "simpo"],
)
def test_scales_and_orders_must_be_positive(
    setting: str, function: Callable[[float], torch.Tensor], value: float
) -> None:
    """The error has the argument's name and the value."""
    with refused(ValueError, f"`{setting}`", value, "positive"):
        function(value)


# ---- the optima of the objectives: every response, every expectation exact ------------------------------------------


DATA, OPPONENT = logps(0.30, 0.05, 0.25, 0.10, 0.30), logps(0.10, 0.25, 0.15, 0.40, 0.10)
"""Distributions over five responses, in twentieths."""


def expected(function: Callable[..., torch.Tensor], data: torch.Tensor, opponent: torch.Tensor):
    """Return the expected loss of a policy, as a function of its logits.

    Real responses come from `data`, generated ones from `opponent`, independently: a loss of pairs is summed over all
    pairs, weighted by their probabilities. A loss of batches is that of a batch that has every response as often as it
    is likely.
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
        loss = of_logps(function, policy[real], policy[generated], before[real], before[generated])
        return loss if loss.ndim == 0 else (data[real] * opponent[generated] * loss).sum()

    return of_logits


def gradient_at(loss_of: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor) -> torch.Tensor:
    leaf = point.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_of(leaf), leaf)[0]


def minimiser(loss_of: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Return the minimum of the loss, from a start."""
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
    """Proposition 1 of the paper: the minimum is at p_theta = p_data, at -1/alpha times the Rényi divergence of the
    data from p_t.
    """
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
    """Theorem 5.4 of the paper: it goes to p_t * (p_data / p_t)^(1/lambda), so a larger lambda is a smaller step."""
    data, opponent, start = distributions(3)
    loss_of = expected(partial(sigmoid, beta=beta), data, opponent)
    target = [p * (q / p) ** (1 / beta) for q, p in zip(data.tolist(), opponent.tolist(), strict=True)]
    target = [value / math.fsum(target) for value in target]
    assert gradient_at(loss_of, logps(*target).log()).abs().max().item() < 1e-12
    for logits in (start.log(), opponent.log()):
        assert minimiser(loss_of, logits).softmax(0).tolist() == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize(("scale", "bound"), [(0.1, 1.0), (1.0, 0.5), (0.5, 4.0)])
def test_the_step_of_spif_is_bounded(scale: float, bound: float) -> None:
    """Over unconstrained log-ratios, the rewards converge to (p_data - p_t) / (c * (p_data + p_t)), at most 1 / c."""
    data, opponent = logps(0.7, 0.0, 0.2, 0.1), logps(0.0, 0.4, 0.2, 0.4)
    c = 1 / bound

    def loss_of(ratios: torch.Tensor) -> torch.Tensor:
        """Return the loss of a pair, the sum of a real and a generated term; with the other at its bound, a term is
        alone.
        """
        function = partial(spif, reward_scale=scale, reward_bound=bound)
        rest = torch.full_like(ratios, bound / scale)
        return (data * function(ratios, -rest) + opponent * function(rest, ratios)).sum()

    optimum = [(p - q) / (c * (p + q)) for p, q in zip(data.tolist(), opponent.tolist(), strict=True)]
    rewards = scale * minimiser(loss_of, torch.zeros(4, dtype=torch.float64))
    assert rewards.tolist() == pytest.approx(optimum, abs=1e-6)
    # Responses that only one of them gives are at the bounds.
    assert rewards[:3].tolist() == pytest.approx([bound, -bound, 0.0], abs=1e-6)


def test_one_iteration_of_spif_moves_towards_the_data() -> None:
    """The policy makes exactly those responses more likely that the data has more often than the opponent."""
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
        *(partial(gsil, divergence=name, scale=1.0, shift=0.1) for name in GSIL_LOSSES),
    ],
    ids=lambda function: f"{function.func.__name__}-{'-'.join(map(str, function.keywords.values()))}",
)
def test_nothing_moves_where_the_opponent_is_the_data(function: Callable[..., torch.Tensor]) -> None:
    """The opponent's answers can't be told from the real ones, so the policy does not change."""
    loss_of = expected(function, DATA, DATA)
    assert gradient_at(loss_of, DATA.log()).abs().max().item() < 1e-12
    # A response that the data has more often becomes likelier at once (a step is against the gradient).
    uphill = gradient_at(expected(function, DATA, OPPONENT), OPPONENT.log())
    assert ((uphill < 0) == (DATA > OPPONENT)).all()
