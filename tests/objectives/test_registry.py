"""The losses that `loss_type` can name have settings with published values, and errors that name both sides."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from messages import refused
from spin_trl import SPINConfig
from spin_trl.errors import RecipeError
from spin_trl.objectives.objective import LENGTHS, LOGRATIOS, POLICY, PROTO, Objective
from spin_trl.objectives.registry import (
    LOSS_TYPES,
    METHODS,
    OURS,
    OWN_SETTINGS,
    REFERENCE_FREE,
    check_losses,
    objectives_of,
    own_settings,
    proto_in_words,
)
from spin_trl.objectives.space import SpaceSettings, space
from spin_trl.objectives.tspin import TspinSettings, tspin
from trl_losses import TRLS

GSIL = ("gsil_bernoulli", "gsil_brier", "gsil_hinge", "gsil_kliep", "gsil_lsif")

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "space": {"space_mu": 1.0},
    "tspin": {"tspin_alpha": 1.0, "tspin_beta": 0.1},
    "spif": {"spif_reward_scale": 0.1, "spif_reward_bound": 1.0},
    "iris": {"iris_schedule": "gap", "iris_alpha": None},
    "simpo": {"simpo_beta": 2.0, "simpo_gamma": 0.5},
    **{name: {"gsil_scale": 0.1, "gsil_shift": 0.0} for name in GSIL},
    "gsil_bernoulli": {"gsil_scale": 0.01, "gsil_shift": 2.0},
}


def resolve_settings(losses: list[str], given: Mapping[str, Any], num_generations: int) -> dict[str, Any]:
    """Return the settings of the objectives among these losses."""
    chosen = objectives_of(losses, given, num_generations)
    return {name: value for _, settings in chosen for name, value in vars(settings).items()}


def spin(**settings: Any) -> SPINConfig:
    return SPINConfig(**{"output_dir": "out", "use_cpu": True, "bf16": False, "report_to": "none", **settings})


# ---- the table -----------------------------------------------------------------------------------------------------------


def test_ten_objectives_are_ours() -> None:
    """They hide none of TRL's."""
    assert {"space", "tspin", "spif", "iris", "simpo", *GSIL} <= OURS
    assert set(LOSS_TYPES) == OURS | {"sigmoid"}
    assert set(METHODS) >= {*LOSS_TYPES, "hinge", "ipo", "sft"}
    assert OURS.isdisjoint(TRLS)
    assert LOSS_TYPES["sigmoid"].by_trl


def test_which_losses_need_no_opponent() -> None:
    """T-SPIN and S-SimPO only use the policy, like TRL's SFT."""
    assert REFERENCE_FREE & {*PUBLISHED, "sigmoid", "sft"} == {"tspin", "simpo", "sft"}
    assert [name for name in PUBLISHED if LOSS_TYPES[name].needs_opponent] == ["space", "spif", "iris", *GSIL]


def test_what_single_objectives_need() -> None:
    """T-SPIN uses θ_0's responses; IRIS is a function of the batch, and has figures."""
    assert [name for name in PUBLISHED if LOSS_TYPES[name].needs_proto] == ["tspin"]
    assert [name for name in PUBLISHED if LOSS_TYPES[name].couples_pairs] == ["iris"]
    assert [name for name in PUBLISHED if LOSS_TYPES[name].figures] == ["iris"]
    assert LOSS_TYPES["simpo"].inputs == POLICY + LENGTHS
    assert LOSS_TYPES["tspin"].inputs == POLICY + PROTO
    assert LOSS_TYPES["space"].inputs == LOGRATIOS


def test_the_table_is_not_changed_by_accident() -> None:
    """It is read-only."""
    with pytest.raises(TypeError):
        LOSS_TYPES["sigmoid"] = LOSS_TYPES["space"]  # type: ignore[index]


def test_settings_of_the_objectives_are_settings() -> None:
    """Each is a field of `SPINConfig`, left out by default, with its objective's name as prefix."""
    assert set(OWN_SETTINGS) >= {name for values in PUBLISHED.values() for name in values}
    assert len(OWN_SETTINGS) == len(set(OWN_SETTINGS))
    for name in OWN_SETTINGS:
        assert SPINConfig.__dataclass_fields__[name].default is None, name
    for name in OURS:
        assert all(setting.split("_")[0] == name.split("_")[0] for setting in vars(LOSS_TYPES[name].published))


def test_settings_stand_in_the_order_of_the_papers() -> None:
    """Objectives that are not about self-play come last; TRL's settings and the general ones come first."""
    assert [name for name in LOSS_TYPES if name in {"sigmoid", *PUBLISHED}] == ["sigmoid", *PUBLISHED]
    names = [known.name for known in dataclasses.fields(SPINConfig)]
    assert tuple(names[-len(OWN_SETTINGS) :]) == OWN_SETTINGS
    assert names[-len(OWN_SETTINGS) - 1] == "shared_prefix"


def test_settings_are_known_to_be_a_part_of_the_config() -> None:
    """A function that takes an objective's settings accepts all settings."""
    assert all(isinstance(spin(), type(LOSS_TYPES[name].published)) for name in OURS)


def test_a_name_that_papers_use_leads_to_the_loss() -> None:
    """SPIN's loss has TRL's name; T-SPIN's name would be more similar."""
    with refused(RecipeError, "'spin'", "'sigmoid'"):
        check_losses(["spin"])


def test_messages_name_what_takes_proto_responses() -> None:
    assert proto_in_words(PUBLISHED) == ("`tspin`", "`tspin_beta: 0`")
    assert proto_in_words(["space", "sft"]) == ("", "")


BY_HAND: Mapping[str, tuple[Mapping[str, float], float]] = {
    # r = 1, r' = -2; log-likelihoods -9, -7 and -8; 2 and 4 tokens
    "sigmoid": ({"beta": 0.1}, math.log1p(math.exp(-0.3))),
    "space": ({"space_mu": 2.0}, math.log1p(2 * math.exp(-1)) + 2 * math.log1p(math.exp(-2) / 2)),
    "tspin": (
        {"tspin_alpha": 0.5, "tspin_beta": 0.2},
        math.log1p(math.exp(1)) + 0.2 * math.log1p(math.exp(-0.5)),
    ),
    "spif": ({"spif_reward_scale": 0.5, "spif_reward_bound": 2.0}, 0.8125),
    "iris": ({"iris_alpha": 2.0}, -3.0),
    "simpo": ({"simpo_beta": 2.0, "simpo_gamma": 0.5}, math.log1p(math.exp(0.5 - 2 * (-4.5 + 1.75)))),
    "gsil_bernoulli": (
        {"gsil_scale": 0.5, "gsil_shift": 1.0},
        math.log1p(math.exp(-1.5)) + math.log1p(math.exp(0)),
    ),
    "gsil_brier": ({"gsil_scale": 0.5, "gsil_shift": 1.0}, (1 / (1 + math.exp(1.5))) ** 2 + 0.25),
    "gsil_hinge": ({"gsil_scale": 0.5, "gsil_shift": 1.0}, 1.0),
    "gsil_kliep": ({"gsil_scale": 0.5, "gsil_shift": 1.0}, 1 - 1.5),
    "gsil_lsif": ({"gsil_scale": 0.5, "gsil_shift": 1.0}, 0.5 - math.exp(1.5)),
}
"""Settings by the names of `SPINConfig`, and the loss that results."""


def tensors() -> dict[str, torch.Tensor | None]:
    one = {
        "policy_real_logps": -9.0,
        "policy_generated_logps": -7.0,
        "opponent_real_logps": -10.0,
        "opponent_generated_logps": -5.0,
        "policy_proto_logps": -8.0,
        "real_lengths": 2.0,
        "generated_lengths": 4.0,
        "something_else": 1.0,
    }
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in one.items()}


@pytest.mark.parametrize("name", BY_HAND)
def test_settings_reach_the_arguments_that_they_mean(name: str) -> None:
    """Tensors and settings of other losses are ignored."""
    values, expected = BY_HAND[name]
    everything = {setting: 99.0 for settings, _ in BY_HAND.values() for setting in settings} | dict(values)
    assert LOSS_TYPES[name](tensors(), everything).item() == pytest.approx(expected, rel=1e-9)


def test_figures_are_measured_with_the_same_arguments() -> None:
    """They are passed by name; an objective without figures measures nothing."""
    figures = LOSS_TYPES["iris"].measure(tensors(), {"iris_alpha": 2.0, "space_mu": 3.0})
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(
        {"iris/alpha": 2.0, "iris/ess_real": 1.0, "iris/ess_generated": 1.0}
    )
    assert LOSS_TYPES["space"].measure(tensors(), {"space_mu": 3.0}) == {}


def test_a_loss_type_says_what_it_needs() -> None:
    """The names of its function's arguments determine this."""
    bare = Objective("bare", "Bare", function=space, published=SpaceSettings(1.0))
    assert (bare.needs_opponent, bare.needs_proto, bare.couples_pairs, bare.by_trl) == (True, False, False, False)
    values = {"tspin_alpha": 1.0, "tspin_beta": 0.0}
    triplet = Objective("three", "Three", function=tspin, published=TspinSettings(**values))
    assert (triplet.needs_opponent, triplet.needs_proto, triplet.weighs_proto(values)) == (False, True, True)


# ---- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_that_are_left_out_are_the_published_ones(name: str) -> None:
    """Each loss has only its own settings; None means left out."""
    assert own_settings([name]) == set(PUBLISHED[name])
    assert resolve_settings([name], {}, 1) == PUBLISHED[name]
    assert resolve_settings([name], dict.fromkeys(OWN_SETTINGS), 1) == PUBLISHED[name]


@pytest.mark.parametrize("losses", [["sigmoid"], ["sft", "ipo"], ["nonsense"], []], ids=str)
def test_trls_losses_have_none_of_our_settings(losses: list[str]) -> None:
    """An unknown name has none either, and is reported by TRL."""
    assert own_settings(losses) == set()
    assert resolve_settings(losses, dict.fromkeys(OWN_SETTINGS), 1) == {}


def test_losses_together_have_the_settings_of_each() -> None:
    """Given values are kept, and the rest are published ones."""
    assert resolve_settings(["space", "sft", "tspin", "gsil_hinge"], {"tspin_beta": 0.5, "gsil_shift": -1.0}, 1) == {
        "space_mu": 1.0,
        "tspin_alpha": 1.0,
        "tspin_beta": 0.5,
        "gsil_scale": 0.1,
        "gsil_shift": -1.0,
    }


def test_spaces_mu_is_the_number_of_generations() -> None:
    """A given value takes precedence."""
    assert resolve_settings(["space"], {}, 4) == {"space_mu": 4.0}
    assert resolve_settings(["space"], {"space_mu": 1.5}, 4) == {"space_mu": 1.5}


@pytest.mark.parametrize(
    ("losses", "setting", "value", "owners"),
    [
        (["sigmoid"], "space_mu", 1.0, ["space"]),
        (["space", "sft"], "tspin_beta", 0.0, ["tspin"]),
        (["tspin"], "iris_schedule", "gap", ["iris"]),
        (["tspin"], "iris_alpha", [1.0], ["iris"]),
        (["iris"], "gsil_scale", 1.0, list(GSIL)),
        (["iris"], "simpo_gamma", 0.0, ["simpo"]),
        (["iris"], "spif_reward_bound", 1, ["spif"]),
    ],
    ids=str,
)
def test_a_setting_of_another_loss_is_refused(losses: list[str], setting: str, value: Any, owners: list[str]) -> None:
    """The function and the settings both name the two losses."""
    parts = (f"`{setting}`", *map(repr, [*losses, *owners]), "`loss_type`")
    with refused(RecipeError, *parts):
        resolve_settings(losses, {setting: value}, 1)
    with refused(RecipeError, *parts):
        spin(loss_type=losses, loss_weights=[1.0] * len(losses), **{setting: value})


POSITIVE = {
    "space_mu": "space",
    "tspin_alpha": "tspin",
    "spif_reward_scale": "spif",
    "spif_reward_bound": "spif",
    "simpo_beta": "simpo",
    "gsil_scale": "gsil_kliep",
}


@pytest.mark.parametrize("value", [0, -0.5])
@pytest.mark.parametrize(("setting", "loss"), POSITIVE.items())
def test_scales_must_be_positive(setting: str, loss: str, value: float) -> None:
    """The error has the value."""
    with refused(RecipeError, f"`{setting}`", value, "positive"):
        resolve_settings([loss], {setting: value}, 1)


def test_the_weight_of_tspins_history_may_be_nothing() -> None:
    """It may be 0, but not negative."""
    assert resolve_settings(["tspin"], {"tspin_beta": 0.0}, 1)["tspin_beta"] == 0.0
    with refused(RecipeError, "`tspin_beta`", -0.1, 0):
        resolve_settings(["tspin"], {"tspin_beta": -0.1}, 1)


@pytest.mark.parametrize(("setting", "loss"), [("simpo_gamma", "simpo"), ("gsil_shift", "gsil_lsif")])
@pytest.mark.parametrize("value", [0.0, -1e6])
def test_margins_and_shifts_may_be_anything(setting: str, loss: str, value: float) -> None:
    """They may be zero or negative."""
    assert resolve_settings([loss], {setting: value}, 1)[setting] == value


@pytest.mark.parametrize(
    ("setting", "loss"), [*POSITIVE.items(), ("tspin_beta", "tspin"), ("gsil_shift", "gsil_lsif")]
)
def test_not_a_number_is_out_of_range(setting: str, loss: str) -> None:
    """NaN fails every comparison."""
    with refused(RecipeError, f"`{setting}`", math.nan):
        resolve_settings([loss], {setting: math.nan}, 1)


def test_orders_are_those_that_the_schedule_takes() -> None:
    """They are used as given; what the schedule refuses is refused."""
    assert resolve_settings(["iris"], {"iris_alpha": [0.8, 2.0]}, 1) == {
        "iris_schedule": "gap",
        "iris_alpha": [0.8, 2.0],
    }
    assert resolve_settings(["iris"], {"iris_schedule": "published"}, 1) == {
        "iris_schedule": "published",
        "iris_alpha": None,
    }
    with refused(RecipeError, "`iris_schedule: fixed`", "`iris_alpha`"):
        resolve_settings(["iris"], {"iris_schedule": "fixed"}, 1)
    with refused(RecipeError, "`iris_alpha`", "[2.0]", "`iris_schedule: gap`"):
        resolve_settings(["iris"], {"iris_alpha": [2.0]}, 1)


# ---- SPINConfig ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_left_out_takes_the_published_value(name: str) -> None:
    """It stays absent in the config, and has the published value in the loss."""
    config = spin(loss_type=name)
    assert all(getattr(config, setting) is None for setting in OWN_SETTINGS)
    assert config.losses == [name]
    values = dict(PUBLISHED[name]) | ({"iris_alpha": 3.0} if name == "iris" else {})
    assert config.objective_values() == values  # at iteration 0, where IRIS's order is a number


def test_by_default_no_objective_of_ours_is_chosen() -> None:
    """The default is TRL's sigmoid, which is SPIN's."""
    config = spin()
    assert config.losses == ["sigmoid"]
    assert config.objective_values() == {}


def test_more_generations_are_more_noise_for_space() -> None:
    """mu is their number, unless it is given."""
    assert spin(loss_type="space", num_generations=3).objective_values() == {"space_mu": 3.0}
    assert spin(loss_type="space", num_generations=3, space_mu=1.0).objective_values() == {"space_mu": 1.0}


@pytest.mark.parametrize("alpha", [2.0, 2])
def test_one_order_is_a_list_of_one(alpha: float) -> None:
    """A recipe gives a single number, which applies to every iteration."""
    config = spin(loss_type="iris", iris_schedule="fixed", iris_alpha=alpha)
    assert config.iris_alpha == [2.0]
    assert isinstance(config.iris_alpha[0], float)
    assert [config.objective_values(i, 3, 0.4)["iris_alpha"] for i in range(3)] == [2.0] * 3
    assert config.objective_values()["iris_alpha"] == 2.0


def test_the_order_of_an_iteration_is_the_schedules() -> None:
    """By default it follows the gap, with the paper's bounds or the user's."""

    def orders(config: SPINConfig, *gaps: float | None) -> list[float]:
        return [config.objective_values(i, 3, gap)["iris_alpha"] for i, gap in enumerate(gaps)]

    assert orders(spin(loss_type="iris"), None, 1.0, 9.0) == [3.0, 1.5, 3.0]
    bounded = spin(loss_type="iris", iris_alpha=[0.9, 1.2])
    assert orders(bounded, None, 1.0, -9.0) == [1.2, 1.2, 0.9]
    assert bounded.objective_values()["iris_alpha"] == 1.2
    assert spin(loss_type="iris", iris_schedule="published").objective_values(4, 5)["iris_alpha"] == 0.7


DPOS = [
    ("beta", 0.5),
    ("ld_alpha", 0.5),
    ("f_divergence_type", "js_divergence"),
    ("use_weighting", True),
]


@pytest.mark.parametrize("loss", sorted(OURS))
@pytest.mark.parametrize(("setting", "value"), DPOS)
def test_what_belongs_to_dpos_losses_is_refused_for_ours(loss: str, setting: str, value: Any) -> None:
    """Ignoring it silently would mislead."""
    with refused(RecipeError, f"`{setting}`", "DPO", repr(loss), "`loss_type`"):
        spin(loss_type=loss, **{setting: value})
    with refused(RecipeError, f"`{setting}`", "DPO", repr(loss), "`loss_type`"):
        spin(loss_type=["sft", loss], loss_weights=[0.1, 1.0], **{setting: value})


@pytest.mark.parametrize(("setting", "value"), DPOS)
def test_trls_own_losses_keep_their_settings(setting: str, value: Any) -> None:
    """Nothing changes for them."""
    assert getattr(spin(loss_type="sigmoid", **{setting: value}), setting) == value
    assert getattr(spin(loss_type=["sft"], **{setting: value}), setting) == value


def test_beside_a_loss_of_trls_beta_has_a_meaning() -> None:
    """With SPIN and SPACE together, beta is SPIN's. The others would only change a part of the loss, and are refused."""
    both = {"loss_type": ["sigmoid", "space"], "loss_weights": [1.0, 1.0]}
    assert spin(**both, beta=5.0).beta == 5.0
    for setting, value in DPOS[1:]:
        with refused(RecipeError, f"`{setting}`", "DPO", "'space'", "`loss_type`"):
            spin(**both, **{setting: value})


@pytest.mark.parametrize(
    ("losses", "uses"),
    [
        (["sigmoid"], True),
        (["ipo", "sft"], True),
        (["sigmoid", "space"], True),
        (["space"], False),
        (["tspin", "sft"], False),
        (["sft"], False),
    ],
    ids=str,
)
def test_which_losses_look_at_beta(losses: list[str], uses: bool) -> None:
    """Every loss of TRL's except SFT uses it."""
    assert spin(loss_type=losses, loss_weights=[1.0] * len(losses)).uses_beta is uses


def test_tspin_trains_on_initial_responses_where_it_weighs_them() -> None:
    """Without a weight, and for every other loss, they are not needed."""
    assert spin(loss_type="tspin").needs_proto
    assert not spin(loss_type="tspin", tspin_beta=0.0).needs_proto
    assert not spin(loss_type="space").needs_proto


def test_iris_weighs_accumulated_pairs_without_dropout() -> None:
    """A pass before the gradients would see another model; one micro-batch per step, or no dropout, is fine."""
    with refused(RecipeError, "`iris`", "`disable_dropout`", "`gradient_accumulation_steps`", 1):
        spin(loss_type="iris", gradient_accumulation_steps=2, disable_dropout=False)
    assert spin(loss_type="iris", gradient_accumulation_steps=2).disable_dropout
    assert not spin(loss_type="iris", disable_dropout=False).disable_dropout
    assert not spin(loss_type="space", gradient_accumulation_steps=2, disable_dropout=False).disable_dropout
