"""Our part of a trainer's loss has the right weights and needs, and IRIS over micro-batches is IRIS over the whole step."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from log_ratios import of_logps
from messages import refused
from spin_trl.objectives.iris import iris
from spin_trl.objectives.terms import ObjectiveTerms, Others

pytestmark = pytest.mark.numeric

VALUES: dict[str, Any] = {
    "space_mu": 1.0,
    "tspin_alpha": 1.0,
    "tspin_beta": 0.1,
    "spif_reward_scale": 0.5,
    "spif_reward_bound": 2.0,
    "iris_alpha": 2.0,
    "simpo_beta": 2.0,
    "simpo_gamma": 0.5,
    "gsil_scale": 0.01,
    "gsil_shift": 2.0,
}


def terms(*weighted: tuple[str, float], **values: Any) -> ObjectiveTerms:
    return ObjectiveTerms([name for name, _ in weighted], [weight for _, weight in weighted], VALUES | values)


def tensors(
    real: Sequence[float] | torch.Tensor, generated: Sequence[float] | torch.Tensor
) -> dict[str, torch.Tensor | None]:
    """Return a micro-batch of log-ratios, with opponents that differ between responses."""
    real, generated = (torch.as_tensor(values, dtype=torch.float64) for values in (real, generated))
    opponent_real = -10.0 - torch.arange(len(real), dtype=torch.float64)
    opponent_generated = -5.0 - 2 * torch.arange(len(generated), dtype=torch.float64)
    return {
        "policy_real_logps": opponent_real + real,
        "policy_generated_logps": opponent_generated + generated,
        "opponent_real_logps": opponent_real,
        "opponent_generated_logps": opponent_generated,
        "policy_proto_logps": None,
        "real_lengths": torch.full((len(real),), 3),
        "generated_lengths": torch.full((len(real),), 4),
    }


# ---- the sum -------------------------------------------------------------------------------------------------------------


def test_the_sum_is_weighted() -> None:
    """SPACE counts once and SPIF half, each as the mean over the pairs, for log-ratios 1 and -2, then 0 and 0."""
    space = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + 2 * math.log(2)) / 2
    spif = (0.8125 + 2.0) / 2
    total, figures = terms(("space", 1.0), ("spif", 0.5))(tensors([1.0, 0.0], [-2.0, 0.0]), None)
    assert float(total) == pytest.approx(space + 0.5 * spif, rel=1e-9)
    assert figures == {}


def test_losses_of_trl_are_trls_to_compute() -> None:
    """They keep their weight and add nothing here."""
    mixed = terms(("sigmoid", 3.0), ("space", 0.25), ("sft", 0.1))
    assert float(mixed(tensors([0.0], [0.0]), None)[0]) == pytest.approx(0.25 * 2 * math.log(2), rel=1e-9)
    nothing = terms(("sigmoid", 3.0), ("sft", 0.1))
    assert nothing(tensors([0.0], [0.0]), None) == (0.0, {})
    assert bool(mixed)
    assert not nothing


def test_every_loss_has_a_weight() -> None:
    """A list that is too short is a mistake."""
    with refused(ValueError, "shorter"):
        ObjectiveTerms(["space", "spif"], [1.0], VALUES)


def test_gradients_are_those_of_the_weighted_mean() -> None:
    """SPACE at log-ratios of 0 pushes by one half, times a pair's share of one half, times the weight."""
    batch = tensors([0.0, 0.0], [0.0, 0.0])
    real, generated = (batch[name].requires_grad_() for name in ("policy_real_logps", "policy_generated_logps"))
    total, _ = terms(("space", 3.0))(batch, None)
    assert isinstance(total, torch.Tensor)
    up, down = torch.autograd.grad(total, [real, generated])
    assert (up.tolist(), down.tolist()) == ([-0.75, -0.75], [0.75, 0.75])


def test_figures_are_numbers_without_gradient() -> None:
    """At order 2, log-ratios 0 and ln 2 give weights 1 and 2, worth 9/5; 0 and ln 3 give 1 and 9, worth 100/82."""
    _, figures = terms(("iris", 1.0), ("space", 1.0))(tensors([0.0, math.log(2)], [0.0, math.log(3)]), None)
    assert figures == pytest.approx({"iris/alpha": 2.0, "iris/ess_real": 9 / 5, "iris/ess_generated": 100 / 82})
    assert all(type(value) is float for value in figures.values())


def test_settings_are_kept_as_they_were() -> None:
    """Later changes to the caller's own mapping have no effect."""
    values = dict(VALUES)
    kept = ObjectiveTerms(["space"], [1.0], values)
    values["space_mu"] = 5.0
    assert float(kept(tensors([0.0], [0.0]), None)[0]) == pytest.approx(2 * math.log(2), rel=1e-9)


# ---- what it needs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "free"),
    [
        (["tspin"], True),
        (["simpo"], True),
        (["tspin", "sft"], True),
        (["simpo", "tspin", "sft"], True),
        (["space"], False),
        (["tspin", "space"], False),
        (["tspin", "sigmoid"], False),
        (["tspin", "nonsense"], False),
        # Without one of our losses, the parent is unchanged.
        (["sft"], False),
        (["sigmoid"], False),
    ],
    ids=str,
)
def test_no_opponent_where_no_loss_looks_at_it(names: list[str], free: bool) -> None:
    """TRL's losses count, too; an unknown name is left for TRL to refuse."""
    assert terms(*((name, 1.0) for name in names)).reference_free is free


@pytest.mark.parametrize(
    ("names", "beta", "needs"),
    [
        (["tspin"], 0.1, True),
        (["space", "tspin"], 0.1, True),
        (["tspin"], 0.0, False),
        (["space"], 0.1, False),
        (["sigmoid"], 0.1, False),
    ],
    ids=str,
)
def test_initial_responses_where_tspin_weighs_them(names: list[str], beta: float, needs: bool) -> None:
    """At iteration 0, where its beta is 0, it needs none."""
    assert terms(*((name, 1.0) for name in names), tspin_beta=beta).needs_proto is needs


def test_without_tspin_its_settings_are_not_asked_for() -> None:
    """They have no value then."""
    assert not ObjectiveTerms(["space"], [1.0], {"space_mu": 1.0}).needs_proto


def test_iris_alone_couples_pairs() -> None:
    """This holds in any combination."""
    assert terms(("space", 1.0), ("iris", 0.5)).couples_pairs
    assert not terms(("space", 1.0), ("tspin", 1.0), ("gsil_lsif", 1.0)).couples_pairs


# ---- IRIS over micro-batches ---------------------------------------------------------------------------------------------


SPLITS = [[4, 4, 4], [12], [1] * 12, [5, 1, 6], [1, 11]]


def step(size: int = 12, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return all pairs of an optimiser step: log-probabilities of policy and opponent."""
    generator = torch.Generator().manual_seed(3)
    level = -40 + 10 * torch.randn(2, size, dtype=torch.float64, generator=generator)
    ratios = spread * torch.randn(2, size, dtype=torch.float64, generator=generator)
    return level[0] + ratios[0], level[1] + ratios[1], level[0], level[1]


def micro_batches(
    split: Sequence[int],
    everything: Sequence[torch.Tensor],
    objective: ObjectiveTerms,
) -> tuple[list[float], torch.Tensor, torch.Tensor, list[dict[str, float]]]:
    """Compute, as a trainer does, each micro-batch's loss, and the gradients of all, averaged over the micro-batches.

    Returns:
        Losses; gradients of the real and the generated log-probabilities, shape `(pairs,)`; figures.
    """
    names = ("policy_real_logps", "policy_generated_logps", "opponent_real_logps", "opponent_generated_logps")
    real, generated = (everything[i].clone().requires_grad_() for i in (0, 1))
    losses, figures, start = [], [], 0
    for count in split:
        own = slice(start, start + count)
        rest = torch.ones(len(real), dtype=torch.bool)
        rest[own] = False
        batch = dict(zip(names, (value[own] for value in (real, generated, *everything[2:])), strict=True))
        others = Others(
            (everything[0] - everything[2])[rest], (everything[1] - everything[3])[rest], num_batches=len(split)
        )
        loss, found = objective(batch, others)
        assert isinstance(loss, torch.Tensor)
        (loss / len(split)).backward()
        losses.append(loss.item())
        figures.append(found)
        start += count
    assert real.grad is not None
    assert generated.grad is not None
    return losses, real.grad, generated.grad, figures


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_iris_of_micro_batches_is_iris_of_the_step(split: list[int], alpha: float) -> None:
    """Every micro-batch has the loss of all pairs, and the mean of the gradients is its gradient, with equal parts or
    not.
    """
    everything = step()
    real, generated = (everything[i].clone().requires_grad_() for i in (0, 1))
    whole = of_logps(iris, real, generated, *everything[2:], alpha=alpha)
    up, down = torch.autograd.grad(whole, [real, generated])
    losses, real_grad, generated_grad, _ = micro_batches(split, everything, terms(("iris", 1.0), iris_alpha=alpha))
    assert losses == pytest.approx([whole.item()] * len(split), rel=1e-12)
    assert (real_grad - up).abs().max().item() < 1e-12
    assert (generated_grad - down).abs().max().item() < 1e-12
    # By hand: softmax((alpha - 1) * r) and softmax(alpha * r') over the step (eq. 7 and 8).
    r, g = everything[0] - everything[2], everything[1] - everything[3]
    assert (real_grad + ((alpha - 1) * r).softmax(0)).abs().max().item() < 1e-12
    assert (generated_grad - (alpha * g).softmax(0)).abs().max().item() < 1e-12


def test_micro_batches_without_the_others_would_be_another_loss() -> None:
    """Over one pair each, the order would have no effect at all."""
    everything = step()
    whole = of_logps(iris, *everything, alpha=3.0).item()
    names = ("policy_real_logps", "policy_generated_logps", "opponent_real_logps", "opponent_generated_logps")
    alone = [
        float(
            terms(("iris", 1.0), iris_alpha=3.0)(
                {n: v[i : i + 1] for n, v in zip(names, everything, strict=True)}, None
            )[0]
        )
        for i in range(12)
    ]
    assert sum(alone) / 12 != pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("split", [[4, 4, 4], [5, 1, 6]], ids=str)
def test_weights_of_a_coupled_loss_are_weights(split: list[int]) -> None:
    """Half of IRIS has half of its loss and of its gradient."""
    everything = step()
    losses, up, down, _ = micro_batches(split, everything, terms(("iris", 1.0)))
    half_losses, half_up, half_down, _ = micro_batches(split, everything, terms(("iris", 0.5)))
    assert half_losses == pytest.approx([loss / 2 for loss in losses], rel=1e-12)
    assert torch.allclose(half_up, up / 2, rtol=1e-12, atol=0)
    assert torch.allclose(half_down, down / 2, rtol=1e-12, atol=0)


def test_beside_iris_a_loss_of_pairs_sees_its_own_pairs() -> None:
    """SPACE over a micro-batch is that micro-batch's mean; equal parts add up to the mean over the step."""
    everything = step()
    losses, up, down, _ = micro_batches([4, 4, 4], everything, terms(("iris", 1.0), ("space", 2.0)))
    r, g = (everything[0] - everything[2]).tolist(), (everything[1] - everything[3]).tolist()
    space = [math.log1p(math.exp(-a)) + math.log1p(math.exp(b)) for a, b in zip(r, g, strict=True)]
    whole = of_logps(iris, *everything, alpha=2.0).item()
    expected = [whole + 2 * sum(space[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert losses == pytest.approx(expected, rel=1e-9)
    _, iris_up, iris_down, _ = micro_batches([4, 4, 4], everything, terms(("iris", 1.0)))
    assert (up - iris_up).tolist() == pytest.approx([-2 / 12 / (1 + math.exp(a)) for a in r], rel=1e-9)
    assert (down - iris_down).tolist() == pytest.approx([2 / 12 / (1 + math.exp(-b)) for b in g], rel=1e-9)


def test_figures_of_iris_are_those_of_the_step() -> None:
    """They do not depend on how it is divided."""
    everything = step()
    (whole,) = micro_batches([12], everything, terms(("iris", 1.0)))[3]
    for figures in micro_batches([5, 1, 6], everything, terms(("iris", 1.0)))[3]:
        assert figures == pytest.approx(whole, rel=1e-12)


def test_the_others_get_no_gradient() -> None:
    """They are constants: each micro-batch is responsible for its own pairs, and the caller's tensors are unchanged."""
    batch = tensors([0.5, -1.0], [0.0, 1.0])
    before = dict(batch)
    others = Others(torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0]), num_batches=2)
    total, _ = terms(("iris", 1.0))(batch, others)
    assert isinstance(total, torch.Tensor)
    assert not total.requires_grad
    assert batch == before
    assert not others.real_logratios.requires_grad


def test_the_others_keep_their_digits_beside_half_precision() -> None:
    """Each micro-batch must find the same loss of the step, also where log-probabilities are in bfloat16."""
    everything = [value.to(torch.bfloat16) for value in step()]
    names = ("policy_real_logps", "policy_generated_logps", "opponent_real_logps", "opponent_generated_logps")
    real, generated = (everything[0].float() - everything[2].float()), (everything[1].float() - everything[3].float())
    real, generated = real + 0.01, generated - 0.01  # another process's log-ratios, in float32
    whole = iris(
        torch.cat([everything[0][:4].float() - everything[2][:4].float(), real[4:]]),
        torch.cat([everything[1][:4].float() - everything[3][:4].float(), generated[4:]]),
        alpha=2.0,
    )
    loss, _ = terms(("iris", 1.0))(
        {name: value[:4] for name, value in zip(names, everything, strict=True)}, Others(real[4:], generated[4:], 3)
    )
    assert float(loss) == pytest.approx(whole.item(), rel=1e-6)
