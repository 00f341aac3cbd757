"""The supervised arm that answers "would more SFT have done just as well?" has the same start, rows and number of steps."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from messages import refused
from runs import build, entry, logp, steps, tensors, weights
from spin_trl.errors import RunDirectoryError
from spin_trl.play import supervise
from spin_trl.play.supervise import supervised_args
from spin_trl.run.stage import arm_name
from spin_trl.training.non_finite import NonFiniteTrainer as Trainer

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the arguments of every supervised training, and the weights it started from."""
    seen: list[dict[str, Any]] = []
    original = supervise.train_supervised

    def train(model: Any, tokenizer: Any, rows: Any, args: Any, *others: Any) -> Any:
        start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        seen.append({"args": args, "keys": set(rows["key"]), "start": start})
        return original(model, tokenizer, rows, args, *others)

    monkeypatch.setattr(supervise, "train_supervised", train)
    return seen


def test_an_arm_takes_as_many_steps_from_the_same_start(llama_folder: Path, supervised: list[dict[str, Any]]) -> None:
    """In each iteration the arm takes as many steps as self-play, on the same rows, starting from its own previous model."""
    build(llama_folder, baseline="sft", per_iteration={"num_train_epochs": [1, 2]}).run()
    assert [entry("train", f"iteration-{t}")["steps"] for t in (0, 1)] == [3, 6]
    assert [entry("train", f"baseline/sft/iteration-{t}")["steps"] for t in (0, 1)] == [3, 6]
    train = set(load_from_disk("run/data/train")["key"])
    assert all(given["keys"] == train for given in supervised)
    assert [given["args"].max_steps for given in supervised] == [3, 6]
    for given, start in zip(supervised, (llama_folder, "run/baseline/sft/iteration-0/model"), strict=True):
        for name, tensor in AutoModelForCausalLM.from_pretrained(start).state_dict().items():
            assert torch.equal(given["start"][name], tensor)
    assert not list(Path("run/baseline").rglob("train"))


@pytest.mark.slow
def test_an_arm_learns_the_real_responses(llama_folder: Path) -> None:
    """It lowers the NLL of held-out responses; it has no opponent, so no win rate. Self-play's results do not change."""
    result = build(llama_folder, baseline="sft", num_iterations=1).run()
    arm = result.figures["baseline/sft/iteration-0"]
    assert arm["nll"] < result.figures["start"]["nll"]
    assert "win_rate" not in arm
    build(llama_folder, "alone", num_iterations=1).run()
    assert weights("alone/iteration-0/model") == weights("run/iteration-0/model")


@pytest.mark.slow
def test_the_best_is_never_a_baseline(llama_folder: Path) -> None:
    """A run delivers a self-play model or the start; the arm is only used for comparison."""
    result = build(
        llama_folder, baseline="sft", baseline_learning_rate=0.05, learning_rate=1e-6, num_iterations=1
    ).run()
    assert result.figures["baseline/sft/iteration-0"]["nll"] < result.figures["iteration-0"]["nll"]
    assert result.best_stage in ("start", "iteration-0")


def test_every_label_smoothing_is_an_arm_of_its_own(llama_folder: Path, supervised: list[dict[str, Any]]) -> None:
    """Each has its own name, learning rate and models."""
    build(
        llama_folder,
        baseline="sft",
        baseline_label_smoothing=[0.0, 0.1],
        baseline_learning_rate=3e-3,
        num_iterations=1,
    ).run()
    assert [given["args"].label_smoothing_factor for given in supervised] == [0.0, 0.1]
    assert [given["args"].learning_rate for given in supervised] == [3e-3, 3e-3]
    assert weights("run/baseline/sft/iteration-0/model") != weights("run/baseline/sft-smoothing-0.1/iteration-0/model")


@pytest.mark.slow
def test_the_arms_learning_rate_is_the_first_iterations_unless_set(
    llama_folder: Path, supervised: list[dict[str, Any]]
) -> None:
    """A self-play learning rate that decays over the iterations does not decay the arm's."""
    build(llama_folder, baseline="sft", per_iteration={"learning_rate": [1e-2, 1e-4]}).run()
    assert [given["args"].learning_rate for given in supervised] == [1e-2, 1e-2]


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True], ids=["lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapters_arm_is_an_adapter(quantized: bool, checkpointing: bool, llama_folder: Path) -> None:
    """With LoRA the arm trains an adapter of the same shape, also on 4-bit weights and with activation checkpointing."""
    build(
        llama_folder,
        baseline="sft",
        peft_config=LoraConfig(**LORA),
        quantization_config=BitsAndBytesConfig(**NF4) if quantized else None,
        activation_checkpointing=checkpointing,
    ).run()
    ours = tensors("run/iteration-1/model")
    for t in (0, 1):
        arm = tensors(f"run/baseline/sft/iteration-{t}/model")
        assert {name: tensor.shape for name, tensor in arm.items()} == {n: t.shape for n, t in ours.items()}
        assert any(tensor.abs().max() > 0 for name, tensor in arm.items() if "lora_B" in name)
    assert weights("run/baseline/sft/iteration-0/model") != weights("run/baseline/sft/iteration-1/model")


def test_an_arm_needs_the_iterations_steps(llama_folder: Path) -> None:
    """Before the iteration has been trained, its number of steps is unknown."""
    run = build(llama_folder, baseline="sft")
    run.run_phase("generate", 0)
    with refused(RunDirectoryError, "baseline phase", "iteration 0", "train phase", "iteration-0"):
        run.run_phase("baseline", 0)


@pytest.mark.slow
def test_arms_are_played_once(llama_folder: Path, supervised: list[dict[str, Any]]) -> None:
    """Resuming the run does not train them again."""
    for _ in range(2):
        build(llama_folder, baseline="sft", num_iterations=1).run()
    assert len(supervised) == 1
    assert steps().count(("train", "baseline/sft/iteration-0")) == 1


@pytest.mark.slow
def test_the_arms_settings_are_the_iterations(llama_folder: Path) -> None:
    """Batch size and seed are self-play's; evaluating, saving and pushing are left to the loop."""
    run = build(
        llama_folder, baseline="sft", num_iterations=1, eval_strategy="no", save_strategy="steps", save_steps=1
    )
    run.run()
    args = supervised_args(run.state, 0, "sft")
    assert (args.per_device_train_batch_size, args.max_steps, args.save_strategy) == (4, 3, "no")
    assert args.rate_setting == "baseline_learning_rate"
    assert args.push_to_hub is False


def test_names_of_arms() -> None:
    """There is one arm per label smoothing."""
    assert [arm_name(value) for value in (0.0, 0.1, 0.05)] == ["sft", "sft-smoothing-0.1", "sft-smoothing-0.05"]


@pytest.mark.slow
def test_the_supervised_loss_is_over_responses_alone(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first loss is the mean NLL of the real responses' tokens under the start, prompts masked, computed by hand."""
    losses: list[float] = []
    original = Trainer.log

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        losses.extend([logs["loss"]] if "loss" in logs else [])
        original(self, logs, *args, **kwargs)

    build(llama_folder, num_iterations=1, baseline="sft", per_device_train_batch_size=12).run_phase("generate", 0)
    run = build(llama_folder, num_iterations=1, baseline="sft", per_device_train_batch_size=12)
    for phase in ("start", "train", "evaluate"):
        run.run_phase(phase, 0)
    monkeypatch.setattr(Trainer, "log", log)
    run.run_phase("baseline", 0)
    model, rows = AutoModelForCausalLM.from_pretrained(llama_folder), load_from_disk("run/data/train")
    total = -sum(logp(model, row["prompt_ids"], row["real_ids"]) for row in rows)
    assert losses[0] == pytest.approx(total / sum(len(row["real_ids"]) for row in rows), rel=1e-4)
    assert math.isfinite(losses[0])


@pytest.mark.slow
def test_an_arm_is_compared_with_self_play_on_the_same_prompts(llama_folder: Path) -> None:
    """At the same iteration, both table and plot show the difference of their NLL per token, with its interval."""
    result = build(llama_folder, num_iterations=2, baseline="sft").run()
    for t in range(2):
        arm, played = result.figures[f"baseline/sft/iteration-{t}"], result.figures[f"iteration-{t}"]
        assert arm["nll_change"] == pytest.approx(arm["nll"] - played["nll"])
        ours, theirs = (
            json.loads(Path("run", stage, "held-out/values.json").read_text(encoding="utf-8"))
            for stage in (f"baseline/sft/iteration-{t}", f"iteration-{t}")
        )
        tokens = list(ours["real_tokens"].values())
        differences = [ours["nll"][key] - theirs["nll"][key] for key in ours["nll"]]
        # A ratio of sums over three prompts, with Student's t for two degrees of freedom.
        error = math.sqrt(
            sum((d - arm["nll_change"] * n) ** 2 for d, n in zip(differences, tokens, strict=True)) * 3 / 2
        ) / sum(tokens)
        assert arm["nll_change_low"] == pytest.approx(arm["nll_change"] - 4.302653 * error, rel=1e-5)
        assert arm["nll_change_high"] == pytest.approx(arm["nll_change"] + 4.302653 * error, rel=1e-5)
    (line,) = [line for line in Path("run/table.txt").read_text(encoding="utf-8").splitlines() if "sft 1" in line]
    change = result.figures["baseline/sft/iteration-1"]["nll_change"]
    assert f"{change:+.3f} [" in line
    assert "a baseline minus self-play at the same point" in " ".join(
        Path("run/table.txt").read_text(encoding="utf-8").split()
    )


def test_an_arm_is_compared_when_the_iteration_has_been_measured(llama_folder: Path) -> None:
    """The phases are run by hand: without the iteration's own figures, the difference would silently be missing."""
    run = build(llama_folder, num_iterations=1, baseline="sft")
    for phase in ("start", "generate", "train"):
        run.run_phase(phase, 0)
    with refused(RunDirectoryError, "baseline phase", "iteration 0", "evaluate phase", "iteration-0"):
        run.run_phase("baseline", 0)


def test_an_interrupt_before_the_gate_does_not_move_it_behind_the_arm(llama_folder: Path) -> None:
    """The journal then equals that of an uninterrupted run."""
    build(llama_folder, baseline="sft", num_iterations=1).run()
    played, journal = steps(), Path("run/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    judged = played.index(("gate", "iteration-0"))
    assert played[judged - 1] == ("evaluate", "iteration-0")
    assert len(played) == judged + 3, "the arm comes after it"
    journal.write_bytes(b"".join(lines[:judged]))
    build(llama_folder, baseline="sft", num_iterations=1).run()
    assert steps() == played


def test_an_arm_with_dfts_loss_takes_the_same_steps(llama_folder: Path, supervised: list[dict[str, Any]]) -> None:
    """It uses the same rows and number of steps as plain SFT, from the same start, with another loss."""
    run = build(llama_folder, baseline=["sft", "sft-dft"], num_iterations=1)
    run.run()
    assert run.state.arms == ["sft", "sft-dft"]
    assert [given["args"].loss_type for given in supervised] == ["nll", "dft"]
    assert supervised[0]["keys"] == supervised[1]["keys"]
    assert entry("train", "baseline/sft-dft/iteration-0")["steps"] == entry("train", "iteration-0")["steps"]
    models = [weights(f"run/baseline/{arm}/iteration-0/model") for arm in ("sft", "sft-dft")]
    assert models[0] != models[1]
