"""Training on preference pairs gives the same numbers with both classes, for every architecture and every loss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

import tiny
from drop_in.compare import RELATIVE, ROUNDED, Kind, kinds, reference_logps, steps, train_both, unchanged, weights

pytestmark = pytest.mark.numeric

LN2 = math.log(2)

ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "cohere2",
    "gemma2",
    "gpt2",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "lfm2",
)

# Settings that change how something is computed, or matter only to other models, but not the numbers here.
WITHOUT_EFFECT = {
    "gradient_checkpointing",
    "pad_to_multiple_of",
    "disable_dropout",
    "remove_unused_columns",
    "dataset_num_proc",
}

# The loss of a pair whose log-ratios are both 0, at beta 0.1 (and label smoothing 0.1 if the loss needs some).
LOSS_AT_THE_REFERENCE = {
    "sigmoid": LN2,
    "hinge": 1.0,
    "ipo": 25.0,
    "exo_pair": -LN2 - 0.5 * (math.log(0.9) + math.log(0.1)),
    "nca_pair": 2 * LN2,
    "robust": LN2,
    "bco_pair": 2 * LN2,
    "sppo_hard": 50.0,
    "aot": LN2,
    "aot_unpaired": LN2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.5 * LN2 + 0.5,
    "sigmoid_norm": LN2,
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_of_every_architecture_learns(architecture: str, folder: str) -> None:
    """Dense, mixture and hybrid models are trained from their id, and both classes arrive at the same weights."""
    path = tiny.save(f"{folder}/start", tiny.model(architecture))
    start = weights(AutoModelForCausalLM.from_pretrained(path))
    data = tiny.preference(6)
    _, spin = train_both(folder, lambda kind: kind.build(str(path), train_dataset=data))
    assert unchanged(start, spin.model) == set()
    assert len(steps(spin)) == 3
    assert spin.aux_loss_enabled == (architecture in ("mixtral", "qwen2_moe", "qwen3_moe"))
    assert len(steps(spin, "aux_loss")) == 3 * spin.aux_loss_enabled
    if spin.aux_loss_enabled:
        coefficient = spin.router_aux_loss_coef
        assert steps(spin)[0] == pytest.approx(LN2 + coefficient * steps(spin, "aux_loss")[0], abs=1e-5)
    else:
        assert steps(spin)[0] == pytest.approx(LN2, abs=1e-5)


@pytest.mark.parametrize("loss_type", LOSS_AT_THE_REFERENCE)
@pytest.mark.slow
def test_every_loss_starts_at_its_own_value(loss_type: str, kind: Kind, llama_folder: Path) -> None:
    """Policy and reference are the same at the first step, so the loss is a number known from its formula."""
    settings = {"loss_type": loss_type, "beta": 0.1, "label_smoothing": 0.1 if loss_type == "exo_pair" else 0.0}
    trainer = kind.build(str(llama_folder), settings={**settings, "max_steps": 1}, train_dataset=tiny.preference(2))
    trainer.train()
    assert steps(trainer) == pytest.approx([LOSS_AT_THE_REFERENCE[loss_type]], rel=1e-5)
    assert steps(trainer, "rewards/margins")[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", [*LOSS_AT_THE_REFERENCE, "sft"])
def test_every_loss_trains_alike_away_from_the_reference(loss_type: str, folder: str, llama_folder: Path) -> None:
    """With a reference of other weights, every term of a loss has an effect; training and evaluation agree throughout."""

    def build(kind: Kind) -> object:
        return kind.build(
            AutoModelForCausalLM.from_pretrained(llama_folder),
            ref_model=tiny.model(seed=1),
            settings={
                "loss_type": loss_type,
                "label_smoothing": 0.1 if loss_type in ("exo_pair", "robust") else 0.0,
                "learning_rate": 1e-3,
                "eval_strategy": "steps",
                "eval_steps": 2,
            },
            train_dataset=tiny.preference(6),
            eval_dataset=tiny.preference(3),
            processing_class=tiny.tokenizer(),
        )

    start = weights(AutoModelForCausalLM.from_pretrained(llama_folder))
    _, spin = train_both(folder, build)
    assert unchanged(start, spin.model) == set()
    assert steps(spin, "eval_loss")
    assert abs(steps(spin, "rewards/chosen")[0]) > 1e-3


def test_loss_and_rewards_are_what_the_paper_says(kind: Kind, llama_folder: Path) -> None:
    """It is DPO's eq. 7, from log-probabilities that are computed here, token by token, from the two models' logits."""
    policy, reference = AutoModelForCausalLM.from_pretrained(llama_folder), tiny.model(seed=1)
    trainer = kind.build(
        AutoModelForCausalLM.from_pretrained(llama_folder),
        ref_model=tiny.model(seed=1),
        settings={"max_steps": 1, "beta": 0.3},
        train_dataset=tiny.preference(2),
        processing_class=tiny.tokenizer(),
    )
    chosen: list[float] = []
    rejected: list[float] = []
    for row in trainer.train_dataset:
        for column, rewards in (("chosen_ids", chosen), ("rejected_ids", rejected)):
            mine, theirs = (reference_logps(model, row["prompt_ids"], row[column]) for model in (policy, reference))
            rewards.append(0.3 * (mine - theirs))
    trainer.train()
    margins = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    assert steps(trainer, "rewards/chosen") == pytest.approx([sum(chosen) / 2], rel=1e-4)
    assert steps(trainer, "rewards/rejected") == pytest.approx([sum(rejected) / 2], rel=1e-4)
    assert steps(trainer) == pytest.approx([sum(math.log1p(math.exp(-margin)) for margin in margins) / 2], rel=1e-4)


def away_from_the_reference(kind: Kind, llama_folder: Path, settings: dict[str, Any]) -> DPOTrainer:
    """Return a trainer whose reference has other weights than its policy."""
    return kind.build(
        AutoModelForCausalLM.from_pretrained(llama_folder),
        ref_model=tiny.model(seed=1),
        settings={"learning_rate": 1e-3, **settings},
        train_dataset=tiny.preference(6),
        processing_class=tiny.tokenizer(),
    )


@pytest.fixture(scope="module")
def plain_steps(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> list[float]:
    """Return DPOTrainer's losses and gradient norms with the default settings."""
    trainer = away_from_the_reference(kinds(str(tmp_path_factory.mktemp("plain")))[0], llama_folder, {})
    trainer.train()
    return steps(trainer) + steps(trainer, "grad_norm")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": ["sigmoid", "bco_pair", "sft"]},
        {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.25, 2.0]},
        {"use_weighting": True},
        {"ld_alpha": 0.5},
        {"label_smoothing": 0.2, "loss_type": "robust"},
        {"f_divergence_type": "forward_kl"},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        {"loss_type": "discopop", "discopop_tau": 0.2},
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
        {"disable_dropout": False},
        {"max_length": 12},
        {"max_length": 12, "truncation_mode": "keep_end"},
        {"pad_to_multiple_of": 8},
        {"bf16": True},
        {"neftune_noise_alpha": 5.0},
        {"remove_unused_columns": False},
        {"dataset_num_proc": 2},
        {"optim": "adamw_torch", "lr_scheduler_type": "cosine", "warmup_steps": 1, "max_grad_norm": 0.01},
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_every_setting_means_the_same(
    settings: dict[str, Any], plain_steps: list[float], folder: str, llama_folder: Path
) -> None:
    """A setting that changes DPOTrainer's numbers changes SPINTrainer's in the same way."""

    relative = ROUNDED if settings.get("bf16") else RELATIVE
    _, spin = train_both(folder, lambda kind: away_from_the_reference(kind, llama_folder, settings), relative)
    assert len(steps(spin)) == 3
    if not WITHOUT_EFFECT & settings.keys():
        assert steps(spin) + steps(spin, "grad_norm") != plain_steps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_the_dtype_they_were_loaded_in(dtype: torch.dtype, kind: Kind, llama_folder: Path) -> None:
    """`model_init_kwargs={"dtype": ...}` gives weights, and a reference, of that dtype, before and after training."""
    trainer = kind.build(
        str(llama_folder), settings={"model_init_kwargs": {"dtype": dtype}}, train_dataset=tiny.preference(4)
    )
    before = weights(trainer.model)
    assert {parameter.dtype for parameter in trainer.ref_model.parameters()} == {dtype}
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {dtype}
    assert not any("proj" in name for name in unchanged(before, trainer.model))


def test_a_loaded_model_counts_as_itself(folder: str, llama_folder: Path) -> None:
    """A model instance is trained in place, with the same result as the same model by its id."""
    data = tiny.preference(6)
    instances = []

    def build(kind: Kind) -> object:
        instances.append(AutoModelForCausalLM.from_pretrained(llama_folder))
        return kind.build(instances[-1], train_dataset=data)

    _, from_instance = train_both(f"{folder}/instance", build)
    from_id = kinds(f"{folder}/id")[0].build(str(llama_folder), train_dataset=data)
    from_id.train()
    assert from_instance.model is instances[1]
    assert steps(from_instance) == pytest.approx(steps(from_id))
