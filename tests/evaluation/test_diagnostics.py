"""The figures discussed in the papers are computed from made-up log-probabilities, and checked by hand."""

import math

import pytest

from spin_trl.evaluation.diagnostics import game_figures, histograms
from spin_trl.evaluation.summary import HeldOutRow


def row(real: float, generated: float, real_ratio: float | None, generated_ratio: float | None) -> HeldOutRow:
    """Return a held-out row: log-probabilities under the model, and log-ratios against its opponent."""
    return HeldOutRow(
        real_logp=real,
        real_tokens=4,
        generated_logp=-1.0,
        generated_tokens=3,
        finish_reason="eos",
        identical=False,
        real_logratio=real_ratio,
        generated_logratio=generated_ratio,
        opponent_generated_logp=generated,
        opponent_generated_tokens=2,
    )


ROWS = [
    row(-2.0, -5.0, 1.0, -3.0),  # real is likelier, and rewarded
    row(-9.0, -4.0, 2.0, -1.0),  # rewarded, but less likely than the opponent's
    row(-8.0, -6.0, -1.0, 1.0),  # neither
]


def test_means_of_log_ratios_gap_and_distance() -> None:
    figures = game_figures(ROWS, {"sigmoid": 1.0}, {"beta": 0.1})
    assert figures["logratio/real"] == pytest.approx(2 / 3)
    assert figures["logratio/generated"] == pytest.approx(-1.0)
    assert figures["gap"] == pytest.approx((4 + 3 - 2) / 3)
    assert figures["kl"] == pytest.approx(1.0)
    assert figures["kl_se"] == pytest.approx(2 / math.sqrt(3))
    assert figures["gap_se"] == pytest.approx(math.sqrt(((4 - 5 / 3) ** 2 + (3 - 5 / 3) ** 2 + (-2 - 5 / 3) ** 2) / 6))


def test_real_below_generated_and_reward_without_likelihood() -> None:
    figures = game_figures(ROWS, {"sigmoid": 1.0}, {"beta": 0.1})
    assert figures["real_below_generated"] == pytest.approx(2 / 3)
    assert figures["reward_without_likelihood"] == pytest.approx(1 / 3)


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_spins_coefficients_before_and_after() -> None:
    """They are -beta sigma(-beta (r - r')) for real, and the opposite for generated."""
    figures = game_figures(ROWS, {"sigmoid": 1.0}, {"beta": 0.5})
    assert figures["coefficient/real_start"] == pytest.approx(-0.25)
    assert figures["coefficient/generated_start"] == pytest.approx(0.25)
    ends = [-0.5 * sigma(-0.5 * gap) for gap in (4.0, 3.0, -2.0)]
    assert figures["coefficient/real_end"] == pytest.approx(sum(ends) / 3)
    assert figures["coefficient/generated_end"] == pytest.approx(-sum(ends) / 3)
    assert figures["pairs_in_play/real"] == pytest.approx(sum(ends) ** 2 / sum(e * e for e in ends) / 3)


def test_coefficients_of_a_weighted_sum_of_losses() -> None:
    """The sum is 2 SPACE + SPIN; TRL's sft has no log-ratio and adds nothing."""
    losses, values = {"space": 2.0, "sigmoid": 1.0, "sft": 0.1}, {"space_mu": 1.0, "beta": 0.5}
    figures = game_figures(ROWS, losses, values)
    assert figures["coefficient/real_start"] == pytest.approx(2 * -0.5 - 0.25)
    real = [2 * -sigma(-r) - 0.5 * sigma(-0.5 * gap) for r, gap in ((1.0, 4.0), (2.0, 3.0), (-1.0, -2.0))]
    assert figures["coefficient/real_end"] == pytest.approx(sum(real) / 3)


def test_iris_weighs_pairs_so_their_mean_stays_and_few_may_be_in_play() -> None:
    figures = game_figures(ROWS, {"iris": 1.0}, {"iris_alpha": 3.0})
    assert figures["coefficient/real_start"] == pytest.approx(-1.0)
    assert figures["coefficient/real_end"] == pytest.approx(-1.0)
    assert figures["coefficient/generated_end"] == pytest.approx(1.0)
    weights = [math.exp(2 * r) for r in (1.0, 2.0, -1.0)]
    expected = sum(weights) ** 2 / sum(w * w for w in weights) / 3
    assert figures["pairs_in_play/real"] == pytest.approx(expected)


def test_tspin_and_simpo_are_measured_without_an_opponent() -> None:
    """T-SPIN uses the advantage over the opponent, sigma(-alpha (L - L')), on likelihoods; S-SimPO uses it per token."""
    figures = game_figures(ROWS, {"tspin": 1.0}, {"tspin_alpha": 1.0, "tspin_beta": 0.1})
    assert figures["coefficient/real_end"] == pytest.approx(-sum(sigma(-gap) for gap in (3.0, -5.0, -2.0)) / 3)
    figures = game_figures(ROWS, {"simpo": 1.0}, {"simpo_beta": 2.0, "simpo_gamma": 0.5})
    gaps = [2 * (real / 4 - generated / 2) - 0.5 for real, generated in ((-2.0, -5.0), (-9.0, -4.0), (-8.0, -6.0))]
    assert figures["coefficient/real_end"] == pytest.approx(-sum(2 / 4 * sigma(-gap) for gap in gaps) / 3)


def test_a_loss_of_trls_own_has_no_coefficients() -> None:
    figures = game_figures(ROWS, {"ipo": 1.0}, {})
    assert "gap" in figures
    assert not any(name.startswith(("coefficient", "pairs_in_play")) for name in figures)


def test_a_model_without_opponent_has_no_game() -> None:
    assert game_figures([row(-1.0, -2.0, None, None)], {"space": 1.0}, {"space_mu": 1.0}) == {}
    assert histograms([row(-1.0, -2.0, None, None)]) == {}


def test_histograms_count_every_row_in_common_bins() -> None:
    found = histograms(ROWS)
    assert len(found["edges"]) == 41
    assert (found["edges"][0], found["edges"][-1]) == (-3.0, 2.0)
    assert sum(found["real"]) == sum(found["generated"]) == 3
    assert found["generated"][0] == 1.0
    assert found["real"][-1] == 1.0
    same = histograms([row(-1.0, -1.0, 0.0, 0.0)])
    assert (same["edges"][0], same["edges"][-1], sum(same["real"])) == (-0.5, 0.5, 1.0)
