"""Prompts shared between responses give DPOTrainer's numbers, from one forward over the unique tokens of a batch."""

import copy
import json
import logging
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import tiny
from drop_in.compare import kinds, steps
from messages import names, refused
from processes import launched
from spin_trl import SPINTrainer
from spin_trl.errors import RecipeError
from spin_trl.models.forward import batch as forwards
from spin_trl.models.forward.batch import LAYOUT
from spin_trl.models.forward.layout import Layout
from spin_trl.objectives.registry import OURS
from trainers import build, store_of
from trl_losses import TRLS

pytestmark = pytest.mark.numeric

RELATIVE = 1e-5
NOISE = 5e-7
"""Tolerance for gradients that cancel out: those of the tiny models have norms of 0.001 to 1."""

ACCURACY = "rewards/accuracies"

NO_AUXILIARY_LOSS = {"router_aux_loss_coef": 0.0, "output_router_logits": False}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 512},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "qwen2_moe": NO_AUXILIARY_LOSS,
}
"""Settings of the architectures on which every shape of batch is tested."""

OTHER_MODELS: dict[str, dict[str, Any]] = {
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "cohere2": {},
    "gemma3_text": {},
    "mixtral": NO_AUXILIARY_LOSS,
    "qwen3_moe": NO_AUXILIARY_LOSS,
}

Example = dict[str, list[int]]
Batch = dict[str, Any]


# ---- batches --------------------------------------------------------------------------------------------------------


def examples(*lengths: tuple[int, int, int], seed: int = 0) -> list[Example]:
    """Return tokenised pairs of random tokens, by the lengths of prompt, real and generated response."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, 300) for _ in range(count)]

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(real), "rejected_ids": ids(generated)}
        for prompt, real, generated in lengths
    ]


def alike(example: Example, tokens: int | None, *, other_way: bool = False) -> Example:
    """Return a pair whose generated response is the beginning of its real one, or all of it; or the other way round."""
    real, generated = example["chosen_ids"], example["chosen_ids"][:tokens]
    return {
        **example,
        "chosen_ids": generated if other_way else real,
        "rejected_ids": real if other_way else generated,
    }


ORDINARY = examples((10, 5, 7), (3, 12, 2), (6, 6, 6))

SHAPES: dict[str, tuple[list[Example], dict[str, Any]]] = {
    "ordinary": (ORDINARY, {}),
    "prompts of one token": (examples((1, 4, 6), (1, 1, 1)), {}),
    "equal responses": ([alike(ORDINARY[0], None)], {}),
    "equal responses beside others": ([alike(ORDINARY[0], None), ORDINARY[1]], {}),
    "one response begins the other": (
        [alike(ORDINARY[0], 2), ORDINARY[2], alike(ORDINARY[1], 11, other_way=True)],
        {},
    ),
    "empty responses": (examples((4, 0, 3), (5, 2, 0), (2, 2, 2)), {}),
    "one pair": (examples((7, 9, 4)), {}),
    "cut at the end": (examples((4, 9, 3), (12, 3, 4), (7, 1, 5)), {"max_length": 8}),
    "cut at the beginning": (
        examples((4, 9, 3), (12, 3, 4), (7, 1, 5)),
        {"max_length": 8, "truncation_mode": "keep_end"},
    ),
    "filled up further": (ORDINARY, {"pad_to_multiple_of": 16}),
    "hundreds of tokens": (examples((150, 60, 90), (40, 130, 10)), {}),
}
"""Pairs and settings of TRL's collator."""


def batch_of(rows: list[Example], **settings: Any) -> Batch:
    """Collate pairs with TRL's collator. The padding is an ordinary token."""
    return DataCollatorForPreference(pad_token_id=7, **settings)(rows)


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Batch:
    """Return a batch of each shape."""
    rows, settings = SHAPES[request.param]
    return batch_of(rows, **settings)


# ---- trainers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """The results of one forward and backward pass."""

    loss: float
    metrics: dict[str, float]
    gradients: dict[str, torch.Tensor]
    ties: float = 0.0
    """Share of the pairs whose two responses are equal: only rounding decides which of them is ahead."""


class Gradients(TrainerCallback):
    """Callback that copies the gradients of the first optimiser step of a training."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            self.found = gradients_of(kwargs["model"])


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the gradients of all parameters that have one."""
    named = model.named_parameters()
    return {name: parameter.grad.detach().clone() for name, parameter in named if parameter.grad is not None}


def one_pass(trainer: DPOTrainer, batch: Batch) -> Pass:
    """Return loss, metrics and gradients of a batch, with the current weights."""
    trainer.model.train()
    trainer.model.zero_grad()
    torch.manual_seed(0)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return Pass(loss.item(), metrics, gradients_of(trainer.model), ties_of(batch))


def ties_of(batch: Batch) -> float:
    """Return the share of a batch's pairs whose two responses are equal."""
    tokens = zip(batch["input_ids"], batch["completion_mask"], strict=True)
    responses = [ids[mask.bool()].tolist() for ids, mask in tokens]
    num_pairs = len(responses) // 2
    pairs = zip(responses[:num_pairs], responses[num_pairs:], strict=True)
    return sum(real == generated for real, generated in pairs) / num_pairs


def one_step(trainer: DPOTrainer, rows: list[Example] | None = None) -> Pass:
    """Return the same from a step of training, as the training loop takes it."""
    gradients = Gradients()
    trainer.add_callback(gradients)
    torch.manual_seed(0)
    if rows is not None:
        trainer.train_dataset = Dataset.from_list(rows)
    trainer.train()
    entry = trainer.state.log_history[0]
    metrics = {name: value for name, value in entry.items() if name not in ("loss", "epoch")}
    return Pass(entry["loss"], metrics, gradients.found)


def same(expected: Pass, found: Pass, *, relative: float = RELATIVE, noise: float = NOISE, moves: bool = True) -> None:
    """Check that two passes gave the same loss, metrics and gradients.

    Args:
        expected: the pass that is right.
        found: the pass that is compared with it.
        relative: tolerance of a number, and of a gradient's norm.
        noise: absolute tolerance of a gradient's norm.
        moves: whether the loss must have a gradient, so that there is something to compare.
    """
    assert found.loss == pytest.approx(expected.loss, rel=relative, abs=1e-7)
    ours, theirs = dict(found.metrics), dict(expected.metrics)
    assert abs(ours.pop(ACCURACY) - theirs.pop(ACCURACY)) <= expected.ties + 1e-6
    assert ours == pytest.approx(theirs, rel=relative, abs=2e-6)
    same_gradients(expected.gradients, found.gradients, relative, noise)
    assert not moves or max(float(gradient.norm()) for gradient in expected.gradients.values()) > 1e-3


def same_gradients(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], relative: float, noise: float
) -> None:
    """Check that every parameter has the same gradient, up to a fraction of its norm."""
    assert found.keys() == expected.keys()
    assert found
    for name, gradient in expected.items():
        difference, norm = float((found[name] - gradient).norm()), float(gradient.norm())
        assert difference <= relative * norm + noise, f"{name}: {difference:.2e} of {norm:.2e}"


def trainers(
    folder: Path | str,
    architecture: str = "llama",
    *,
    shared: bool | None = True,
    change: Callable[[PreTrainedModel], None] = lambda model: None,
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[DPOTrainer, SPINTrainer]:
    """Return DPOTrainer, and SPINTrainer with `shared_prefix`, each with its own copies of a policy and of another
    reference.

    Args:
        folder: output folder.
        architecture: architecture of both models.
        shared: `shared_prefix`; with True, there is an error if prompts would not be shared.
        change: function applied to every model.
        settings: settings of both trainers.
        overrides: settings of the models' configuration.
        kwargs: arguments of both trainers.
    """
    kwargs.setdefault("train_dataset", tiny.preference(2))
    made = []
    for kind in kinds(str(folder)):
        own = {"shared_prefix": shared} if kind.trainer is SPINTrainer else {}
        models = [tiny.model(architecture, seed=seed, **(overrides or {})) for seed in (0, 1)]
        for model in models:
            change(model)
        if "peft_config" in kwargs:
            models[1] = None  # the base model is the reference
        torch.manual_seed(0)
        more = {"processing_class": tiny.tokenizer(), **kwargs}
        steps_of = {"max_grad_norm": 0.0, "max_steps": 1, **(settings or {}), **own}
        made.append(kind.build(models[0], ref_model=models[1], settings=steps_of, **more))
    return made[0], made[1]


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DPOTrainer, SPINTrainer]:
    """Return trainers of each architecture, whose weights no test changes."""
    folder = tmp_path_factory.mktemp(request.param)
    return trainers(folder, request.param, overrides=MODELS[request.param])


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the warnings about prompts that are not shared."""
    caplog.set_level(logging.WARNING, "spin_trl.models.forward.batch")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "spin_trl.models.forward.batch"]


def noted(original: Callable[..., Any], is_shared: bool, run: list[bool]) -> Callable[..., Any]:
    """Return a function that also records its calls, except on the batch of a probe."""

    def note(model: Any, forward: Any, kwargs: dict[str, Any], *args: Any) -> Any:
        if kwargs["input_ids"].shape != (2, 6):
            run.append(is_shared)
        return original(model, forward, kwargs, *args)

    return note


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record, for every forward from now on except the probes, whether it ran over unique tokens."""
    run: list[bool] = []
    for name, is_shared in (("over_unique_tokens", True), ("over_rows", False)):
        monkeypatch.setattr(forwards, name, noted(getattr(forwards, name), is_shared, run))
    return run


# ---- DPOTrainer's numbers -------------------------------------------------------------------------------------------


def test_every_shape_of_batch_gives_dpotrainers_numbers(
    both: tuple[DPOTrainer, SPINTrainer], shape: Batch, request: pytest.FixtureRequest
) -> None:
    """Loss, metrics and the gradient of every parameter are equal, with another model as the reference."""
    expected, found = (one_pass(trainer, shape) for trainer in both)
    is_tie = "equal responses]" in request.node.name.replace("-", "]")
    same(expected, found, moves=not is_tie)
    if not is_tie:
        assert abs(expected.loss - 0.6931472) > 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_random_batches_give_dpotrainers_numbers(seed: int, tmp_path: Path) -> None:
    """One to six pairs have any lengths, some of them truncated, with many tokens that are equal by chance."""
    draw = random.Random(seed)
    dpo, spin = trainers(tmp_path)
    for _ in range(8):
        lengths = [(draw.randint(1, 20), draw.randint(0, 20), draw.randint(1, 20)) for _ in range(draw.randint(1, 6))]
        rows = [
            {name: [token % 4 for token in ids] for name, ids in row.items()}
            for row in examples(*lengths, seed=draw.randrange(1000))
        ]
        cut: dict[str, Any] = draw.choice([{}, {"max_length": 9}, {"max_length": 9, "truncation_mode": "keep_end"}])
        batch = batch_of(rows, **cut)
        same(one_pass(dpo, batch), one_pass(spin, batch), moves=False)


@pytest.mark.parametrize("architecture", OTHER_MODELS)
def test_other_architectures_give_dpotrainers_numbers(architecture: str, tmp_path: Path) -> None:
    """They have other position encodings, windows longer than the rows, or other experts."""
    dpo, spin = trainers(tmp_path, architecture, overrides=OTHER_MODELS[architecture])
    for name in ("ordinary", "cut at the beginning"):
        rows, settings = SHAPES[name]
        batch = batch_of(rows, **settings)
        same(one_pass(dpo, batch), one_pass(spin, batch))


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [1.0, 2.0, 3.0, 4.0],
                    "original_max_position_embeddings": 16,
                },
                "original_max_position_embeddings": 16,
            },
        ),
    ],
    ids=["dynamic", "longrope"],
)
def test_positions_that_are_scaled_by_the_longest_row(
    architecture: str, overrides: dict[str, Any], tmp_path: Path
) -> None:
    """With short rows, long ones, then short ones again, the scale is that of the batch's rows, not of the row of
    unique tokens.
    """
    dpo, spin = trainers(tmp_path, architecture, overrides={"max_position_embeddings": 16, **overrides})
    for lengths in ((4, 5, 6), (10, 15, 12), (4, 5, 6), (5, 10, 8)):
        batch = batch_of(examples(lengths, lengths))
        same(one_pass(dpo, batch), one_pass(spin, batch))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"precompute_ref_log_probs": True},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1},
        {"dataloader_num_workers": 1},
        {"use_weighting": True},
        {"ld_alpha": 0.5},
        {"pad_to_multiple_of": 16},
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()) or "plain",
)
def test_a_step_of_training_is_dpotrainers(settings: dict[str, Any], tmp_path: Path) -> None:
    """It goes through the training loop, with checkpointing, accumulation, precomputed references and other weightings."""
    data = tiny.preference(3)
    dpo, spin = trainers(tmp_path, settings={"per_device_train_batch_size": 3, **settings}, train_dataset=data)
    same(one_step(dpo), one_step(spin), relative=2e-5 if "ld_alpha" in settings else RELATIVE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_is_dpotrainers(checkpointing: bool, tmp_path: Path) -> None:
    """The adapter's gradients are equal, with the base model as the reference, in one model that runs with and without
    it.
    """
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    settings = {"per_device_train_batch_size": 3, "gradient_checkpointing": checkpointing}
    dpo, spin = trainers(tmp_path, settings=settings, peft_config=config)
    expected, found = one_step(dpo, ORDINARY), one_step(spin, ORDINARY)
    same(expected, found)
    assert all("lora" in name for name in found.gradients)
    assert abs(expected.loss - 0.6931472) > 1e-4


def test_activations_that_were_stored_elsewhere_are_taken_back(tmp_path: Path) -> None:
    """This imitates `activation_offloading` of tensors saved for the backward pass, with copies in place of a GPU's
    streams.
    """
    dpo, spin = trainers(tmp_path, settings={"per_device_train_batch_size": 3})
    kept: list[torch.Tensor] = []

    def away(tensor: torch.Tensor) -> int:
        kept.append(tensor.detach().clone())
        return len(kept) - 1

    hooks = torch.autograd.graph.saved_tensors_hooks(away, lambda number: kept[number])
    spin.maybe_activation_offload_context = hooks
    same(one_step(dpo, ORDINARY), one_step(spin, ORDINARY))
    assert len(kept) > 20


@pytest.mark.skipif(
    not torch.accelerator.is_available(),
    reason="TRL's OffloadActivations asks torch.accelerator for a device, and a machine with a CPU alone has none",
)
def test_activation_offloading_is_dpotrainers(tmp_path: Path) -> None:
    settings = {"activation_offloading": True, "use_cpu": False, "per_device_train_batch_size": 3}
    dpo, spin = trainers(tmp_path, settings=settings)
    same(one_step(dpo, ORDINARY), one_step(spin, ORDINARY), relative=1e-3, noise=1e-5)


def test_twenty_steps_are_dpotrainers(tmp_path: Path) -> None:
    """The losses of training and evaluation are equal, and rounding is not amplified."""
    settings = {
        "max_steps": 20,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "eval_steps": 10,
    }
    data = {"train_dataset": tiny.preference(12), "eval_dataset": tiny.preference(5)}
    dpo, spin = trainers(tmp_path, settings=settings, **data)
    for trainer in (dpo, spin):
        trainer.train()
    assert len(steps(dpo)) == 20
    assert steps(spin) == pytest.approx(steps(dpo), rel=1e-4)
    assert steps(spin, "eval_loss") == pytest.approx(steps(dpo, "eval_loss"), rel=1e-4)
    assert steps(dpo)[-1] < steps(dpo)[0] - 0.05


@pytest.mark.slow
def test_bfloat16_is_no_further_from_float32_than_dpotrainers(tmp_path: Path) -> None:
    """The mean distance of 64 batches' losses, under autocast, is at most a tenth larger; weights don't move."""
    lengths = random.Random(5)
    rows = examples(*((lengths.randint(1, 20), lengths.randint(1, 20), lengths.randint(1, 20)) for _ in range(128)))
    settings = {"max_steps": 64, "learning_rate": 0.0, "per_device_train_batch_size": 2}
    exact, _ = trainers(tmp_path / "exact", settings=settings)
    dpo, spin = trainers(tmp_path / "rounded", settings={**settings, "bf16": True})
    for trainer in (exact, dpo, spin):
        trainer.train_dataset = Dataset.from_list(rows)
        trainer.train()
    theirs, ours = (
        sum(abs(one - two) for one, two in zip(steps(trainer), steps(exact), strict=True)) / 64
        for trainer in (dpo, spin)
    )
    assert theirs > 1e-4  # it is rounded
    assert ours <= 1.1 * theirs


# ---- every objective ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", sorted(TRLS))
def test_trls_losses_are_dpotrainers(loss_type: str, tmp_path: Path) -> None:
    settings = {"loss_type": loss_type, "label_smoothing": 0.1 if loss_type in ("exo_pair", "robust") else 0.0}
    dpo, spin = trainers(tmp_path, settings=settings)
    _, plain = trainers(tmp_path, settings=settings, shared=False)
    batch = batch_of(ORDINARY)
    expected = one_pass(dpo, batch)
    same(expected, one_pass(plain, batch))
    same(expected, one_pass(spin, batch))


@pytest.mark.parametrize("loss_type", sorted(OURS))
def test_our_objectives_are_what_they_are_without_sharing(loss_type: str, tmp_path: Path) -> None:
    settings = {"loss_type": loss_type}
    made = []
    for shared in (False, True):
        kind = kinds(str(tmp_path))[1]
        made.append(
            kind.build(
                tiny.model(),
                ref_model=tiny.model(seed=1),
                settings={**settings, "shared_prefix": shared},
                train_dataset=tiny.preference(2),
                processing_class=tiny.tokenizer(),
            )
        )
    plain, spin = made
    same(one_pass(plain, batch_of(ORDINARY)), one_pass(spin, batch_of(ORDINARY)))


def test_tspins_third_branch_shares_its_prompt_too(runs: list[bool], tmp_path: Path) -> None:
    """With longer, shorter and equal proto responses, the gradients of the three are those without sharing."""
    first = build(tiny.model(), overrides={"loss_type": "tspin", "output_dir": "first", "max_steps": 1})
    first.train()
    store = store_of(first)
    answers = {key: ids for (key, _, _), ids in first.data_collator.generations.items()}
    protos = [ids[: 1 + number] + [9] * (5 * (number % 3)) for number, ids in enumerate(answers.values())]
    protos[0] = list(next(iter(answers.values())))
    proto = Dataset.from_dict({"key": list(answers), "ids": protos})
    found = {}
    for shared in (False, True):
        runs.clear()
        overrides = {"loss_type": "tspin", "tspin_beta": 0.7, "per_device_train_batch_size": 6, "max_steps": 1}
        overrides |= {"shared_prefix": shared, "output_dir": f"second-{shared}", "max_grad_norm": 0.0}
        trainer = build(tiny.model(), overrides=overrides, generations=store, proto=proto)
        found[shared] = one_step(trainer)
        batch = next(iter(trainer.get_train_dataloader()))
        assert "proto_input_ids" in batch
        assert runs == [shared]
        if shared:
            assert batch[LAYOUT].shape[0] == 18
    same(found[False], found[True])


# ---- where batches are built ----------------------------------------------------------------------------------------


def test_the_data_loaders_worker_lays_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch arrives with the layout of its tokens, and the forward computes none itself."""
    settings = {"dataloader_num_workers": 1, "per_device_train_batch_size": 3}
    dpo, spin = trainers(tmp_path, settings=settings, train_dataset=tiny.preference(3))
    batch = next(iter(spin.get_train_dataloader()))
    assert isinstance(batch[LAYOUT], Layout)
    assert batch[LAYOUT].shape == tuple(batch["input_ids"].shape)
    assert batch[LAYOUT].source.numel() < int(batch["attention_mask"].sum())
    one_pass(spin, batch)  # policy and reference are probed

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("laid out in the forward")

    monkeypatch.setattr(forwards, "lay_out", refuse)
    spin._total_train_tokens = 0
    same(one_step(dpo), one_step(spin))


def test_batches_of_evaluation_are_laid_out_too(tmp_path: Path) -> None:
    data = {
        "train_dataset": tiny.preference(2),
        "eval_dataset": {"one": tiny.preference(3), "two": tiny.preference(2)},
    }
    dpo, spin = trainers(tmp_path, **data)
    assert isinstance(next(iter(spin.get_eval_dataloader("one")))[LAYOUT], Layout)
    expected, found = dpo.evaluate(), spin.evaluate()
    names = [name for name in expected if not name.endswith(("_runtime", "_per_second"))]
    assert len(names) > 10
    assert min(abs(expected[name]) for name in names if name.endswith("rewards/margins")) > 1e-3
    assert {name: found[name] for name in names} == pytest.approx(
        {name: expected[name] for name in names}, rel=RELATIVE, abs=2e-6
    )


def test_a_collator_of_the_users_own(tmp_path: Path) -> None:
    """Any collator that builds DPOTrainer's batches works, with or without padding that DPOTrainer's own would not add."""

    def collate(rows: Sequence[Example]) -> Batch:
        return batch_of(list(rows), pad_to_multiple_of=10)

    data = {"data_collator": collate, "train_dataset": tiny.preference(3)}
    dpo, spin = trainers(tmp_path, settings={"per_device_train_batch_size": 3}, **data)
    assert spin.data_collator is collate
    same(one_step(dpo), one_step(spin))
    assert spin.data_collator is collate


def test_a_stream_of_pairs(runs: list[bool], tmp_path: Path) -> None:
    """An iterable dataset gets no layout from its worker, so the forward computes it."""
    data = tiny.preference(6).to_iterable_dataset()
    dpo, spin = trainers(tmp_path, settings={"max_steps": 3}, train_dataset=data)
    assert LAYOUT not in next(iter(spin.get_train_dataloader()))
    for trainer in (dpo, spin):
        trainer.train()
    assert steps(spin) == pytest.approx(steps(dpo), rel=RELATIVE)
    assert steps(spin, "grad_norm") == pytest.approx(steps(dpo, "grad_norm"), rel=1e-4)
    assert runs == [True] * 6


def test_a_layout_that_does_not_fit_is_made_anew(tmp_path: Path) -> None:
    """The batch was changed after its worker had laid it out, for example by a callback or a subclass."""
    dpo, spin = trainers(tmp_path, settings={"per_device_train_batch_size": 3}, train_dataset=tiny.preference(3))
    batch = next(iter(spin.get_train_dataloader()))
    layout = batch.pop(LAYOUT)
    fewer = {name: torch.cat([value[:2], value[3:5]]) for name, value in batch.items()}
    same(one_pass(dpo, fewer), one_pass(spin, {**fewer, LAYOUT: layout}))


# ---- where prompts can't be shared ----------------------------------------------------------------------------------


def lying(kind: str) -> Callable[[PreTrainedModel], None]:
    """Change a Llama so that it computes something else over unique tokens, in a way that no rule foresees."""

    def change(model: PreTrainedModel) -> None:
        layer, backbone = model.model.layers[0], model.model
        attention, mlp, rotary = layer.self_attn.forward, layer.mlp.forward, backbone.rotary_emb.forward

        def by_index(*args: Any, **kwargs: Any) -> Any:
            result, more = attention(*args, **kwargs)
            return result + 0.02 * torch.arange(result.size(1), dtype=result.dtype)[None, :, None], more

        def blind(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
            return rotary(x, torch.arange(x.size(1))[None].expand(position_ids.shape))

        def neighbours(x: torch.Tensor) -> torch.Tensor:
            return mlp(x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])

        if kind == "index in the row":
            layer.self_attn.forward = by_index
        elif kind == "own positions":
            backbone.rotary_emb.forward = blind
        else:
            layer.mlp.forward = neighbours

    return change


@pytest.mark.parametrize("kind", ["index in the row", "own positions", "neighbours"])
def test_a_model_that_lies_is_found_out(
    kind: str, tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """A small pair, run both ways before the first batch, gives different log-probabilities, so the forward is unchanged."""
    dpo, spin = trainers(tmp_path, change=lying(kind), shared=None)
    for name in ("ordinary", "one response begins the other"):
        batch = batch_of(SHAPES[name][0])
        same(one_pass(dpo, batch), one_pass(spin, batch))
    assert not any(runs)
    (said,) = warnings()
    assert names(said, "LlamaForCausalLM", "log-probabilities")
    assert re.search(r"\d.* nats", said)
    _, strict = trainers(tmp_path, change=lying(kind), shared=True)
    with refused(RecipeError, "`shared_prefix: true`", "LlamaForCausalLM", "log-probabilities"):
        one_pass(strict, batch_of(ORDINARY))


RANDOM: dict[str, dict[str, Any]] = {
    "opt": {"dropout": 0.1},
    "mixtral": {**NO_AUXILIARY_LOSS, "router_jitter_noise": 0.3},
}
"""Models that draw random numbers in training without a layer for it that TRL could disable."""


@pytest.mark.parametrize("evaluates_first", [False, True])
@pytest.mark.parametrize("architecture", RANDOM)
def test_randomness_that_is_no_layer_is_found_out(
    architecture: str,
    evaluates_first: bool,
    tmp_path: Path,
    warnings: Callable[[], list[str]],
    runs: list[bool],
) -> None:
    """Both responses would share the prompt's draws. Run unchanged, a model draws what it draws for DPOTrainer."""
    dpo, spin = trainers(tmp_path, architecture, shared=None, overrides=RANDOM[architecture])
    for trainer in (dpo, spin):
        if evaluates_first:  # without randomness, sharing is exact
            trainer.evaluate(tiny.preference(2))
        trainer.ref_model.eval()
    runs.clear()
    same(one_pass(dpo, batch_of(ORDINARY)), one_pass(spin, batch_of(ORDINARY)))
    assert runs[0] is False
    assert len(warnings()) == 1


def test_a_reference_that_lies_does_not_keep_the_policy_from_sharing(
    tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """Each of the two models is checked separately."""
    made = []
    for kind in kinds(str(tmp_path)):
        policy, reference = tiny.model(), tiny.model(seed=1)
        lying("neighbours")(reference)
        more = {"train_dataset": tiny.preference(2), "processing_class": tiny.tokenizer()}
        made.append(kind.build(policy, ref_model=reference, **more))
    same(*(one_pass(trainer, batch_of(ORDINARY)) for trainer in made))
    assert runs == [True, False]
    assert len(warnings()) == 1


def test_a_model_that_fails_over_unique_tokens_is_run_as_it_was(
    tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    def change(model: PreTrainedModel) -> None:
        original = model.model.forward

        def picky(self: Any, *args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
            _rows, _length = attention_mask.shape
            return original(*args, attention_mask=attention_mask, **kwargs)

        model.model.forward = MethodType(picky, model.model)

    dpo, spin = trainers(tmp_path, change=change, shared=None)
    same(one_pass(dpo, batch_of(ORDINARY)), one_pass(spin, batch_of(ORDINARY)))
    (said,) = warnings()
    assert names(said, "LlamaForCausalLM", "unpack")


FALLING_BACK: dict[str, tuple[str, dict[str, Any], tuple[object, ...]]] = {
    "convolutions": ("lfm2", {}, ("recurrent", "(conv)")),
    "eager attention": ("llama", {"attn_implementation": "eager"}, ("attention", "'eager'")),
    "window": ("mistral", {"sliding_window": 12}, ("`sliding_window`", 12)),
    "auxiliary loss": ("mixtral", {}, ("auxiliary loss", "experts")),
    "auxiliary loss by default": ("qwen2_moe", {"output_router_logits": False}, ("auxiliary loss", "experts")),
}


@pytest.mark.parametrize("case", FALLING_BACK)
def test_falling_back_gives_dpotrainers_numbers_and_says_why_once(
    case: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    """Several batches give one warning, and the policy's also covers the reference."""
    architecture, overrides, parts = FALLING_BACK[case]
    dpo, spin = trainers(tmp_path, architecture, shared=None, overrides=overrides)
    for rows in (ORDINARY, examples((12, 5, 7), (10, 12, 2)), examples((20, 20, 20))):
        same(one_pass(dpo, batch_of(rows)), one_pass(spin, batch_of(rows)))
    (said,) = warnings()
    assert names(said, *parts)


@pytest.mark.parametrize("case", FALLING_BACK)
def test_a_recipe_that_wants_sharing_fails_where_it_cannot_be_had(case: str, tmp_path: Path) -> None:
    """If the kind of model decides it, it fails before anything is computed; otherwise with the first batch that shows
    it.
    """
    architecture, overrides, parts = FALLING_BACK[case]
    with refused(RecipeError, "`shared_prefix: true`", *parts):
        one_pass(trainers(tmp_path, architecture, overrides=overrides)[1], batch_of(ORDINARY))
    if case in ("convolutions", "eager attention"):
        with refused(RecipeError, *parts):
            trainers(tmp_path, architecture, overrides=overrides)


def test_rows_within_the_sliding_window_are_still_shared(
    tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """With long, short, long, short rows, the reason for the long ones does not apply to the others."""
    dpo, spin = trainers(tmp_path, "mistral", shared=None, overrides={"sliding_window": 12})
    for lengths in ((10, 5, 7), (5, 4, 7), (9, 12, 2), (3, 9, 1)):
        batch = batch_of(examples(lengths))
        same(one_pass(dpo, batch), one_pass(spin, batch))
    assert runs == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 2
    assert len(warnings()) == 1


def test_the_reference_of_a_mixture_runs_as_its_policy_does(tmp_path: Path, runs: list[bool]) -> None:
    """Only the policy computes the auxiliary loss; run another way, an equal reference would differ by rounding."""
    base = tiny.save(tmp_path / "base", tiny.model("mixtral"))
    for settings in ({}, {"bf16": True}, {"precompute_ref_log_probs": True}):
        runs.clear()
        trainer = kinds(str(tmp_path))[1].build(str(base), settings=settings, train_dataset=tiny.preference(6))
        trainer.train()
        assert runs == [False] * 6
        if "precompute_ref_log_probs" not in settings:
            assert abs(steps(trainer, "rewards/margins")[0]) < 1e-6


@pytest.mark.parametrize("by_config", [False, True])
def test_a_mixture_without_its_auxiliary_loss_is_shared(
    by_config: bool, tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """The weight is 0 in the trainer's settings, or in the model's, whose router logits are then not used."""
    settings = {} if by_config else {"router_aux_loss_coef": 0.0}
    overrides = {"router_aux_loss_coef": 0.0} if by_config else {}
    dpo, spin = trainers(tmp_path, "mixtral", shared=None, settings=settings, overrides=overrides)
    same(one_pass(dpo, batch_of(ORDINARY)), one_pass(spin, batch_of(ORDINARY)))
    assert warnings() == []
    assert runs == [True, True]


def test_rows_filled_up_on_the_left_are_run_as_they_are(
    tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    def collate(rows: Sequence[Example]) -> Batch:
        return {name: value.flip(1) for name, value in batch_of(list(rows)).items()}

    data = {"data_collator": collate, "train_dataset": tiny.preference(3)}
    dpo, spin = trainers(tmp_path, shared=None, settings={"per_device_train_batch_size": 3}, **data)
    same(one_step(dpo), one_step(spin))
    assert not any(runs)
    (said,) = warnings()
    assert names(said, "`attention_mask`")


def test_a_batch_with_more_than_tokens_is_run_as_it_is(
    tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """It has the user's own positions, which DPOTrainer passes to the model."""
    dpo, spin = trainers(tmp_path, shared=None)
    batch = batch_of(ORDINARY)
    batch["position_ids"] = 2 * torch.arange(batch["input_ids"].size(1)).expand(batch["input_ids"].shape)
    same(one_pass(dpo, batch), one_pass(spin, batch))
    assert not any(runs)
    (said,) = warnings()
    assert names(said, "'position_ids'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha`"),
        ({"torch_compile": True, "torch_compile_backend": "eager"}, "`torch_compile`"),
    ],
)
def test_settings_that_sharing_would_change(
    settings: dict[str, Any], setting: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    """The user is told before training."""
    with refused(RecipeError, setting):
        trainers(tmp_path, settings=settings)
    dpo, spin = trainers(tmp_path, shared=None, settings={**settings, "seed": 3})
    same(one_step(dpo, ORDINARY), one_step(spin, ORDINARY))
    assert [names(said, setting) for said in warnings()] == [True]


def test_without_sharing_nothing_is_laid_out_or_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """With `shared_prefix: false`, this holds for a model that could share, and for one that could not."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("laid out")

    monkeypatch.setattr(forwards, "lay_out", refuse)
    monkeypatch.setattr("spin_trl.training.collator.lay_out", refuse)
    for architecture in ("llama", "lfm2"):
        dpo, spin = trainers(tmp_path, architecture, shared=False, train_dataset=tiny.preference(2))
        same(one_step(dpo), one_step(spin))
        assert spin.model.config._attn_implementation == "sdpa"
        assert LAYOUT not in next(iter(spin.get_train_dataloader()))
    assert runs == [False] * 4
    assert warnings() == []


def test_sharing_is_what_happens_by_itself(
    tmp_path: Path, warnings: Callable[[], list[str]], runs: list[bool]
) -> None:
    """No setting is needed, and nothing is logged."""
    _, spin = trainers(tmp_path, shared=None)
    assert spin.args.shared_prefix is None
    one_step(spin, ORDINARY)
    assert runs == [True, True]
    assert warnings() == []


@pytest.mark.filterwarnings("error:None of the inputs have requires_grad")
def test_checkpointing_is_as_quiet_as_dpotrainers(tmp_path: Path) -> None:
    """TRL disables checkpointing when there are no gradients, because PyTorch would warn."""
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    for trainer in trainers(tmp_path, settings=checkpointing, train_dataset=tiny.preference(3)):
        one_step(trainer)


def test_the_forward_runs_over_unique_tokens(tmp_path: Path) -> None:
    """Every layer sees one row without padding: of 10 + 5 + 7 and 6 + 6 + 6 tokens, each once."""
    _, spin = trainers(tmp_path)
    seen: list[tuple[int, ...]] = []
    one_pass(spin, batch_of(ORDINARY))
    spin.model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    one_pass(spin, batch_of([ORDINARY[0], ORDINARY[2]]))
    assert seen == [(1, 40, 16)]


# ---- the model afterwards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_a_trained_model_generates_and_is_saved_as_any(lora: bool, tmp_path: Path) -> None:
    """The saved model has no trace of us, and is the model that was trained."""
    peft: dict[str, Any] = {}
    if lora:
        config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        peft["peft_config"] = config
    base = tiny.save(tmp_path / "base")
    kind = kinds(str(tmp_path))[1]
    settings = {"shared_prefix": True, "max_steps": 2}
    trainer = kind.build(
        AutoModelForCausalLM.from_pretrained(base), settings=settings, train_dataset=tiny.preference(4), **peft
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "saved").glob("*config.json")]
    assert texts
    assert not any("spin_trl" in text for text in texts)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.config._attn_implementation == "sdpa"
    text = tiny.tokenizer()
    rows = text(["Ann paints a boat.", "Bob"], return_tensors="pt", padding=True, padding_side="left")
    rows.pop("token_type_ids", None)
    trainer.model.eval()
    with torch.no_grad():
        assert torch.allclose(trainer.model(**rows).logits, loaded(**rows).logits, atol=1e-6)
    answers = [model.generate(**rows, max_new_tokens=6, do_sample=False) for model in (trainer.model, loaded)]
    assert torch.equal(*answers)


def test_a_copy_of_a_model_has_its_own_weights(tmp_path: Path) -> None:
    """With all weights at zero, every token of the vocabulary is equally likely to the copy, and to it alone."""
    _, spin = trainers(tmp_path)
    batch = batch_of(ORDINARY)
    rows = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": batch["input_ids"]}
    copied = copy.deepcopy(spin.model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
        found = copied(**rows, fused_lm_head=True).log_probs
        assert torch.allclose(found, torch.tensor(-math.log(copied.config.vocab_size)))
        assert found.std() < 1e-6 < spin.model(**rows, fused_lm_head=True).log_probs.std()


def test_a_model_may_be_given_to_one_trainer_after_another(tmp_path: Path) -> None:
    """Shared, unshared, and DPOTrainer's each give the same result as with a model of their own."""
    policy, reference = tiny.model(), tiny.model(seed=1)
    more = {"train_dataset": tiny.preference(2), "processing_class": tiny.tokenizer()}
    dpo, spin = kinds(str(tmp_path))
    expected = one_pass(dpo.build(tiny.model(), ref_model=tiny.model(seed=1), **more), batch_of(ORDINARY))
    for kind, settings in (
        (spin, {"shared_prefix": True}),
        (spin, {"shared_prefix": True}),
        (dpo, {}),
        (spin, {"shared_prefix": False}),
        (spin, {}),
    ):
        trainer = kind.build(policy, ref_model=reference, settings=settings, **more)
        same(expected, one_pass(trainer, batch_of(ORDINARY)))


# ---- several processes ----------------------------------------------------------------------------------------------

LOSSES = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TESTS_PATH"])
from models.forward.test_batch import losses_by_sharing
from accelerate import PartialState
found = losses_by_sharing(sys.argv[1])
if PartialState().is_main_process:
    open(sys.argv[2], "w", encoding="utf-8").write(json.dumps(found))
"""


def losses_by_sharing(folder: str) -> list[list[list[float]]]:
    """Return losses, gradient norms and margins of four steps, of DPOTrainer's, and with and without sharing.

    They are computed with all weights, and with an adapter and checkpointing; 15 rows can't be split evenly between
    two processes.
    """
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"gradient_checkpointing": True}, {"peft_config": lora}),
    ]
    found = []
    for more, kwargs in ways:
        settings = {"max_steps": 4, "max_grad_norm": 1.0, "use_cpu": True, **more}
        shared, plain = (
            trainers(folder, shared=wanted, settings=settings, train_dataset=tiny.preference(15), **kwargs)
            for wanted in (True, False)
        )
        logged = []
        for trainer in (*shared, plain[1]):
            trainer.train()
            logged.append([v for key in ("loss", "grad_norm", "rewards/margins") for v in steps(trainer, key)])
        found.append(logged)
    return found


@pytest.mark.slow
def test_two_processes_share_prompts_too(tmp_path: Path) -> None:
    """With DDP over gloo, the averaged gradients are those of the same losses."""
    script, result = tmp_path / "losses.py", tmp_path / "losses.json"
    script.write_text(LOSSES, encoding="utf-8")
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    launched(["accelerate.commands.launch", *options, str(script), str(tmp_path / "out"), str(result)])
    for dpo, shared, plain in json.loads(result.read_text(encoding="utf-8")):
        assert len(dpo) == 12
        assert shared == pytest.approx(plain, rel=RELATIVE, abs=2e-6)
        assert shared == pytest.approx(dpo, rel=RELATIVE, abs=2e-6)


SHARDED = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TESTS_PATH"])
import torch.distributed as dist
from models.forward.test_batch import sharded
dist.init_process_group("gloo")
found = [sharded(checkpointing) for checkpointing in (False, True)]
if dist.get_rank() == 0:
    open(sys.argv[1], "w", encoding="utf-8").write(json.dumps(found))
dist.destroy_process_group()
"""


def sharded(checkpointing: bool) -> tuple[str, float, float, int]:
    """Run a model whose parameters are sharded over two processes, with and without sharing prompts.

    Returns:
        The class that torch turned the model into; the largest difference of a log-probability, in nats; the largest
        of a gradient, relative to its norm; and the number of gradients.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from trl.trainer.utils import add_fused_lm_head

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    batch = batch_of(examples((10, 5, 7), (3, 12, 2), seed=torch.distributed.get_rank()))
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    found = []
    for shared in (True, False):
        model = tiny.model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        add_fused_lm_head(model)
        both = forwards.Forwards(shared)
        both.wrap(model)
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        with both.batch(batch):
            logps = model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        logps.sum().backward()
        found.append((logps.detach(), {name: value.full_tensor() for name, value in gradients_of(model).items()}))
    (ours, our_gradients), (theirs, their_gradients) = found
    apart = [float((our_gradients[name] - value).norm() / value.norm()) for name, value in their_gradients.items()]
    return type(model).__name__, float((ours - theirs).abs().max()), max(apart), len(apart)


@pytest.mark.slow
def test_sharded_weights_share_prompts_too(tmp_path: Path) -> None:
    """torch's `fully_shard` runs over gloo, with and without checkpointing: weights are gathered layer by layer,
    forward and backward.
    """
    script, result = tmp_path / "sharded.py", tmp_path / "sharded.json"
    script.write_text(SHARDED, encoding="utf-8")
    options = ["--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    launched(["torch.distributed.run", *options, str(script), str(result)])
    for wrapper, logps, gradients, count in json.loads(result.read_text(encoding="utf-8")):
        assert wrapper == "FSDPLlamaForCausalLM"
        assert logps < 2e-6
        assert gradients < RELATIVE
        assert count == 21
