"""Every loss trains in the trainer, T-SPIN needs no opponent, and IRIS weights the whole optimiser step."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import DPOConfig

import tiny
from messages import refused
from runs import logp
from spin_trl import SPINTrainer
from spin_trl.errors import DataError, GenerationsError, RecipeError
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from spin_trl.objectives.registry import OURS, REFERENCE_FREE
from trainers import LORA, build, logged, settings

pytestmark = pytest.mark.numeric

AT_ZERO = {
    "space": 1.3862943611198906,  # 2 ln 2
    "spif": 1.0,  # reward_bound
    "iris": 0.0,
    "gsil_bernoulli": 2.253856022085945,  # log(1 + e^-2) + log(1 + e^2)
    "gsil_brier": 0.5,  # 2 sigmoid(0)^2
    "gsil_hinge": 2.0,  # relu(1) + relu(1)
    "gsil_kliep": 1.0,  # e^0
    "gsil_lsif": -0.5,  # e^0 / 2 - e^0
}
"""Value of each objective if all log-ratios are 0, with the published settings."""

GRADIENTS = """
import json, os, sys
import torch
sys.path[:0] = json.loads(os.environ["TESTS_PATH"])
from training.test_objective_trainer import step_of
from accelerate import PartialState
found = step_of(int(sys.argv[1]), int(sys.argv[2]))
if PartialState().is_main_process:
    torch.save(found, sys.argv[3])
"""


def step_of(batch_size: int, accumulation: int, **overrides: Any) -> dict[str, torch.Tensor]:
    """Run one step of plain gradient descent on 64 pairs, against an opponent that is another model; return the change."""
    torch.manual_seed(0)
    policy, opponent = tiny.model(seed=1), tiny.model(seed=2)
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    args = settings(
        output_dir=f"out-{batch_size}-{accumulation}-{os.environ.get('WORLD_SIZE', 1)}",
        loss_type="iris",
        iris_schedule="fixed",
        iris_alpha=[1.5],
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        max_steps=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **overrides,
    )
    trainer = SPINTrainer(
        policy, opponent, args=args, train_dataset=tiny.preference(64), processing_class=tiny.tokenizer()
    )
    trainer.train()
    changes = {name: value.detach() - before[name] for name, value in policy.named_parameters()}
    entry = trainer.state.log_history[0]
    figures = [entry[name] for name in ("loss", "iris/ess_real", "iris/ess_generated")]
    return {**changes, "figures": torch.tensor(figures, dtype=torch.float64)}


def assert_same_step(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert max(float(change.abs().max()) for change in expected.values()) > 0.1
    for name, change in expected.items():
        assert torch.allclose(found[name], change, rtol=1e-5, atol=1e-5), name


@pytest.fixture(scope="module")
def whole_step() -> dict[str, torch.Tensor]:
    return step_of(64, 1)


@pytest.mark.parametrize("name", sorted(OURS - REFERENCE_FREE))
def test_every_objective_starts_at_its_value_and_moves(name: str) -> None:
    trainer = build(tiny.model(), overrides={"loss_type": name})
    trainer.train()
    first, second = logged(trainer)
    if name in AT_ZERO:
        assert first == pytest.approx(AT_ZERO[name], abs=2e-5)
    assert second != pytest.approx(first, abs=1e-5)
    assert all(norm > 0 for norm in logged(trainer, "grad_norm"))


@pytest.mark.parametrize("name", ["space", "tspin", "iris"])
def test_objectives_combine_with_sft_and_lora(name: str) -> None:
    """The loss is the weighted sum of the two values, and the adapter learns."""
    losses = {"loss_type": [name, "sft"], "loss_weights": [2.0, 0.5]}
    alone = build(tiny.model(), overrides={"loss_type": name, "output_dir": "alone"}, peft_config=LoraConfig(**LORA))
    alone.train()
    sft = build(tiny.model(), overrides={"loss_type": "sft", "output_dir": "sft"}, peft_config=LoraConfig(**LORA))
    sft.train()
    both = build(tiny.model(), overrides={**losses, "output_dir": "both"}, peft_config=LoraConfig(**LORA))
    both.train()
    assert logged(both)[0] == pytest.approx(2.0 * logged(alone)[0] + 0.5 * logged(sft)[0], abs=1e-4)
    assert any(value.abs().sum() > 0 for key, value in both.model.named_parameters() if "lora_B.default" in key)


# ---- IRIS: all pairs of a step --------------------------------------------------------------------------------------


def test_iris_in_micro_batches_is_iris_of_the_whole_step(whole_step: dict[str, torch.Tensor]) -> None:
    """The log-ratios are far from 0, so weights within micro-batches would be different."""
    assert_same_step(step_of(8, 8), whole_step)


def test_iris_in_unequal_micro_batches_is_iris_of_the_whole_step(whole_step: dict[str, torch.Tensor]) -> None:
    """64 pairs in batches of 24 leave 16 for the last."""
    assert_same_step(step_of(24, 3), whole_step)


def test_iris_without_accumulation_weighs_a_micro_batch_alone(whole_step: dict[str, torch.Tensor]) -> None:
    """The papers' code would do this; if it gave the same result, the test above would prove nothing."""
    alone = step_of(8, 1)
    assert any(not torch.allclose(alone[name], change, rtol=1e-2, atol=1e-2) for name, change in whole_step.items())


@pytest.mark.slow
def test_iris_over_two_processes_is_iris_of_the_whole_step(
    whole_step: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Two processes have 4 x 8 pairs each, or one batch of 32 each, which needs no extra pass."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    tests = [str(Path(tiny.__file__).parent)]
    for batch_size, accumulation in ((8, 4), (32, 1)):
        result = tmp_path / f"{batch_size}.pt"
        arguments = [str(script), str(batch_size), str(accumulation), str(result)]
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *options, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TESTS_PATH": json.dumps(tests)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert_same_step(torch.load(result), whole_step)


def test_iris_with_lora_weighs_the_whole_step_too() -> None:
    """Without precomputed log-probabilities the extra pass also runs the opponent, the base model."""

    def train(batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
        overrides = {
            "loss_type": "iris",
            "iris_schedule": "fixed",
            "iris_alpha": [2.0],
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 2,
            "output_dir": f"out-{batch_size}",
        }
        torch.manual_seed(0)
        trainer = build(tiny.model(), overrides=overrides, peft_config=LoraConfig(**LORA))
        trainer.train()
        return {name: value.detach() for name, value in trainer.model.named_parameters() if ".default." in name}

    whole, parts = train(6, 1), train(2, 3)
    for name, value in whole.items():
        assert torch.allclose(parts[name], value, atol=1e-5), name


def test_no_pass_goes_ahead_where_one_micro_batch_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    monkeypatch.setattr(SPINTrainer, "_logratios", lambda self, batch: passes.append(batch))
    build(tiny.model(), overrides={"loss_type": "iris"}).train()
    build(tiny.model(), overrides={"loss_type": "space", "gradient_accumulation_steps": 2, "output_dir": "b"}).train()
    assert passes == []


def test_iris_and_tspin_go_on_from_a_checkpoint_to_the_same_weights() -> None:
    """With the extra pass and with proto responses, the weights equal those of undisturbed training bit for bit."""
    first = build(tiny.model(), overrides={"loss_type": "tspin", "output_dir": "iteration-0"})
    first.train()
    ways: dict[str, dict[str, Any]] = {
        "iris": {"overrides": {"loss_type": "iris", "gradient_accumulation_steps": 2, "max_steps": 2}},
        "tspin": {"overrides": {"loss_type": "tspin", "max_steps": 4}, "proto": generations_of(first)},
    }
    for name, options in ways.items():
        steps = options["overrides"]["max_steps"]
        saving = {"save_strategy": "steps", "save_steps": steps // 2, "output_dir": name, "num_train_epochs": 2}
        options["overrides"] |= saving
        whole = build(tiny.model(seed=3), **options)
        whole.train()
        resumed = build(tiny.model(seed=3), **options)
        resumed.train(resume_from_checkpoint=f"{name}/checkpoint-{steps // 2}")
        for (key, one), (_, two) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
            assert torch.equal(one, two), f"{name}: {key}"


# ---- T-SPIN: no opponent, and a third branch ------------------------------------------------------------------------


def generations_of(trainer: SPINTrainer) -> GenerationStore:
    (folder,) = (Path(trainer.args.output_dir) / "generations").iterdir()
    return GenerationStore(folder)


CHECKED = [2, 2, 1]
"""Rows of the three forwards that check whether unique tokens give the same result, before the first one that counts."""


def forwards(model: Any) -> list[int]:
    """Record the rows of every forward that the model's layers see from now on, in training but not in generation."""
    rows: list[int] = []

    def note(module: Any, inputs: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("use_cache") is False:
            rows.append(len(kwargs["input_ids"]))

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("shared_prefix", [None, False])
def test_tspin_runs_no_opponent(shared_prefix: bool | None, lora: bool) -> None:
    """There is one forward per step, over the 2B rows that DPOTrainer sees or over their unique tokens, and no check."""
    peft = {"peft_config": LoraConfig(**LORA)} if lora else {}
    overrides = {"loss_type": "tspin", "shared_prefix": shared_prefix}
    trainer = build(tiny.model(), overrides=overrides, **peft)
    rows = forwards(trainer.model)
    trainer.train()
    assert rows == ([6, 6] if shared_prefix is False else [*CHECKED, 1, 1])
    assert trainer.ref_model is None


@pytest.mark.parametrize("shared_prefix", [None, False])
def test_tspin_is_the_papers_loss_of_the_three_responses(shared_prefix: bool | None) -> None:
    """The loss is eq. 7, computed from log-probabilities of a plain forward, at iteration 1: pairs of θ_1 with θ_0's
    responses.
    """
    first = build(tiny.model(), overrides={"loss_type": "tspin", "output_dir": "iteration-0"})
    first.train()
    proto = generations_of(first)
    model = tiny.model(seed=7)
    overrides = {"loss_type": "tspin", "tspin_beta": 0.5, "tspin_alpha": 0.25, "per_device_train_batch_size": 6}
    overrides["shared_prefix"] = shared_prefix
    second = build(model, overrides={**overrides, "output_dir": "iteration-1", "max_steps": 1}, proto=proto)
    rows, template = second._rows_by_name["train"], second.pair_template
    assert template.eos_ids
    before = AutoModelForCausalLM.from_config(model.config)
    before.load_state_dict(model.state_dict())
    seen = forwards(second.model)
    second.train()
    assert seen == ([18] if shared_prefix is False else [*CHECKED, 1])
    answers = {0: Generations.load({0: generations_of(second)}), -1: Generations.load({0: proto})}
    losses = []
    for row in rows:
        ids = (row["real_ids"], answers[0][row["key"], 0, 0], answers[-1][row["key"], 0, 0])
        real, generated, old = (logp(before, row["prompt_ids"], response) for response in ids)
        current = torch.tensor(0.25 * (real - generated)).exp().reciprocal().log1p()
        historical = torch.tensor(0.25 * (generated - old)).exp().reciprocal().log1p()
        losses.append(float(current + 0.5 * historical))
    assert logged(second)[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_tspin_takes_the_first_answers_as_proto_when_trained_again() -> None:
    trainer = build(tiny.model(), overrides={"loss_type": "tspin"})
    trainer.train()
    first = generations_of(trainer)
    trainer.train()
    kept = trainer.data_collator.proto
    assert dict(kept) == dict(Generations.load({0: first}))
    assert dict(kept) != dict(trainer.data_collator.generations)


def test_tspin_refuses_a_later_iteration_without_proto(tmp_path: Path) -> None:
    first = build(tiny.model(), overrides={"loss_type": "tspin", "output_dir": "first"})
    first.train()
    store = generations_of(first)
    manifest = store.folder / "generations.json"
    manifest.write_text(
        json.dumps({**json.loads(manifest.read_text(encoding="utf-8")), "iteration": 1}), encoding="utf-8"
    )
    with refused(GenerationsError, "`tspin`", store.folder, "iteration 1", "`proto`", "`tspin_beta: 0`"):
        build(tiny.model(), overrides={"loss_type": "tspin"}, generations=store)
    with refused(GenerationsError, "`proto`", "iteration 0", "[1]"):
        build(tiny.model(), overrides={"loss_type": "tspin", "output_dir": "o"}, proto=store).train()
    build(tiny.model(), overrides={"loss_type": "tspin", "tspin_beta": 0.0}, generations=store).train()


def test_tspin_on_preference_pairs_is_reference_free() -> None:
    """Given pairs have no proto response: the first term trains, and no reference runs."""
    trainer = build(tiny.model(), overrides={"loss_type": "tspin"}, train_dataset=tiny.preference(6))
    rows = forwards(trainer.model)
    trainer.train()
    assert rows == [*CHECKED, 1, 1]
    with refused(DataError, "`proto`", "`train_dataset`", *map(repr, tiny.preference(6).column_names)):
        build(tiny.model(), train_dataset=tiny.preference(6), proto="somewhere")


def test_simpo_by_hand() -> None:
    """The loss is softplus(gamma - beta (log p(y) / |y| - log p(y') / |y'|)), from plain forwards."""
    model = tiny.model()
    overrides = {"loss_type": "simpo", "simpo_beta": 3.0, "simpo_gamma": 0.7, "per_device_train_batch_size": 6}
    trainer = build(model, overrides={**overrides, "max_steps": 1})
    rows = trainer._rows_by_name["train"]
    before = AutoModelForCausalLM.from_config(model.config)
    before.load_state_dict(model.state_dict())
    trainer.train()
    generated = Generations.load({0: generations_of(trainer)})
    losses = []
    for row in rows:
        answer = generated[row["key"], 0, 0]
        real = logp(before, row["prompt_ids"], row["real_ids"]) / len(row["real_ids"])
        other = logp(before, row["prompt_ids"], answer) / len(answer)
        losses.append(torch.tensor(0.7 - 3.0 * (real - other)).exp().log1p().item())
    assert logged(trainer)[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


# ---- SPACE with several generations ---------------------------------------------------------------------------------


def test_space_takes_as_many_generations_as_mu() -> None:
    """With three generations per prompt, mu is 3 by default: log 4 + 3 log(4 / 3) at the first step."""
    trainer = build(tiny.model(), overrides={"loss_type": "space", "num_generations": 3})
    trainer.train()
    assert trainer.args.space_mu is None  # left out, so not set by the user
    assert logged(trainer)[0] == pytest.approx(2.24934057847523, abs=1e-5)


def test_what_has_no_meaning_is_refused_before_anything_is_loaded() -> None:
    with refused(RecipeError, "`tspin_alpha`", "'space'", "'tspin'", "`loss_type`"):
        settings(loss_type="space", tspin_alpha=0.3)
    with refused(RecipeError, "`loss_type`", "'spaec'", "'space'"):
        build(tiny.model(), overrides={"loss_type": "spaec"})


def test_what_an_objective_leaves_out_is_not_written_back() -> None:
    """So that a config can be changed with `dataclasses.replace`, as transformers promises."""
    args = settings(loss_type="space")
    assert dataclasses.replace(args, loss_type="spif").objective_values() == {
        "spif_reward_scale": 0.1,
        "spif_reward_bound": 1.0,
    }
    assert dataclasses.replace(args, num_generations=4).objective_values() == {"space_mu": 4.0}


def test_a_reference_free_loss_evaluates_new_pairs_after_training() -> None:
    """There is no opponent whose log-probabilities could be missing."""
    trainer = build(tiny.model(), overrides={"loss_type": "tspin"}, train_dataset=tiny.preference(6))
    trainer.train()
    found = trainer.evaluate(tiny.preference(4))
    assert found["eval_loss"] > 0
    other = build(
        tiny.model(),
        overrides={"loss_type": "tspin", "output_dir": "b"},
        train_dataset=tiny.preference(6),
        eval_dataset=tiny.preference(4).to_iterable_dataset(),
        ref_model=tiny.model(),
    )
    other.train()
    assert other.evaluate()["eval_loss"] > 0


def test_a_third_branch_changes_nothing_else(tmp_path: Path) -> None:
    """DPOTrainer's metrics are those of its 2B rows, with longer and shorter proto responses, and with checkpointing."""
    rows = tiny.sft(6)
    plain = build(
        tiny.model(), overrides={"loss_type": "tspin", "output_dir": "plain", "max_steps": 1}, train_dataset=rows
    )
    plain.train()
    answers = {0: Generations.load({0: generations_of(plain)})}[0]
    for length, checkpointing in ((1, False), (30, False), (30, True)):
        proto = Dataset.from_dict({"key": [key for key, _, _ in answers], "ids": [[5] * length for _ in answers]})
        overrides = {"loss_type": "tspin", "output_dir": f"{length}-{checkpointing}", "max_steps": 1}
        overrides["activation_checkpointing"] = checkpointing
        beside = build(tiny.model(), overrides=overrides, train_dataset=rows, proto=proto)
        beside.train()
        for name in (
            "logps/chosen",
            "logps/rejected",
            "rewards/margins",
            "entropy",
            "logits/chosen",
            "mean_token_accuracy",
        ):
            assert logged(beside, name)[0] == pytest.approx(logged(plain, name)[0], rel=1e-5), name
        if length == 1:  # likelier than the generated response; thirty times the same token is not
            assert logged(beside)[0] > logged(plain)[0] + 0.1


def test_trls_own_config_takes_the_published_settings() -> None:
    """`DPOConfig` has no `space_mu`, but a drop-in's users may still pass it."""
    args = DPOConfig("out", use_cpu=True, bf16=False, activation_checkpointing=False, loss_type="space", max_steps=1)
    args.per_device_train_batch_size, args.report_to, args.logging_steps, args.max_length = 2, [], 1, 64
    trainer = SPINTrainer(
        tiny.model(),
        tiny.model(),
        args=args,
        train_dataset=tiny.preference(4),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(1.3862943611198906, abs=1e-5)
