"""Baseline arms train for as long as self-play, in steps or in compute; the tests recompute the compute from the files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from transformers import TrainerCallback

import runs
import tiny
from messages import refused
from runs import build, entry
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.play import supervise
from spin_trl.play.equal import epochs_of_arm, steps_of_arm
from spin_trl.play.gate import settle_generations
from spin_trl.report.record import read_record
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal, Step
from spin_trl.run.stage import Stage

SFT: dict[str, Any] = {
    "start": "sft",
    "sft_args": {"learning_rate": 1e-2, "num_train_epochs": 1, "lr_scheduler_type": "constant"},
}


def common(one: list[int], other: list[int]) -> int:
    return len(list(itertools.takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False))))


def tokens_of(run_dir: str | Path = "run") -> int:
    """Return the tokens of all prompts and real responses."""
    rows = load_from_disk(Path(run_dir, "data/train"))
    return sum(len(row["prompt_ids"]) + len(row["real_ids"]) for row in rows)


def counted_again(iteration: int, run_dir: str | Path = "run") -> int:
    """Return the compute of an iteration of one epoch, from its rows and answers alone: pairs are trained on and
    scored once by the opponent, with shared beginnings counted once; prompts are prefilled; answers are sampled.
    """
    rows, answers = load_from_disk(Path(run_dir, "data/train")), runs.answers(run_dir, f"iteration-{iteration}")
    total = 0
    for row in rows:
        prompt, real, generated = row["prompt_ids"], row["real_ids"], answers[row["key"], 0]
        pair = len(prompt) + len(real) + len(generated) - common(real, generated)
        total += 3 * pair + pair + len(prompt) + len(generated)
    return total


@pytest.mark.slow
def test_arms_use_as_much_compute_as_self_play(llama_folder: Path) -> None:
    """It is equal within a step of four of the twelve rows, in every iteration and in sum; the arm from the base also
    has SFT's.
    """
    build(llama_folder, **SFT, baseline=["sft", "sft-dft", "sft-best"], baseline_equal="compute").run()
    step = 3 * tokens_of() / 3
    spent = [counted_again(t) for t in (0, 1)]
    for arm in ("sft", "sft-dft"):
        entries = [entry("train", f"baseline/{arm}/iteration-{t}") for t in (0, 1)]
        used = [3 * one["compute"]["trained"] for one in entries]
        assert used == [pytest.approx(one["steps"] * step, abs=3) for one in entries]
        assert abs(used[0] - spent[0]) <= step / 2 + 3
        assert abs(used[1] - spent[1]) <= step
        assert abs(sum(used) - sum(spent)) <= step / 2 + 6
        assert entries[0]["steps"] > entry("train", "iteration-0")["steps"]
    best = entry("train", "baseline/sft-best/iteration-1")
    everything = sum(spent) + 3 * entry("train", "start")["compute"]["trained"]
    assert abs(3 * best["compute"]["trained"] - everything) <= step / 2 + 6
    assert not Path("run/baseline/sft-best/iteration-0").exists()


@pytest.mark.slow
def test_the_best_point_of_sft_from_the_base(llama_folder: Path) -> None:
    """Counted in steps, it takes those of SFT first and both iterations, nine; it is measured at every epoch, and the
    best point is delivered.
    """
    result = build(llama_folder, **SFT, baseline="sft-best").run()
    best = entry("train", "baseline/sft-best/iteration-1")
    assert (best["steps"], best["rows"], best["learning_rate"]) == (9, 12, 1e-2)
    assert [step for step, _, _ in best["points"]] == [3, 6, 9]
    nll = {step: value for step, _, value in best["points"]}
    found = result.figures[Stage("baseline/sft-best/iteration-1")]["nll"]
    assert nll[best["best_step"]] == min(nll.values()) == pytest.approx(found, rel=1e-5)
    card = Path("run/baseline/sft-best/iteration-1/model/README.md").read_text(encoding="utf-8")
    assert "start →" not in card
    # Its first epoch equals SFT first: same base, rows, settings and seed.
    assert nll[3] == pytest.approx(entry("train", "start")["points"][0][2], rel=1e-6)


@pytest.fixture
def played(llama_folder: Path) -> Any:
    """Return a run whose journal holds SFT first, two iterations and the arms' first, with compute that is easy to add
    up.
    """

    def make(equal: str) -> Any:
        run = build(llama_folder, **SFT, baseline=["sft"], baseline_equal=equal).state
        run.directory.path.mkdir()
        journal = Journal(run.directory.own("journal.jsonl"))
        journal.append(Step.TRAIN, "start", steps=100, compute={"trained": 1000})
        for t in (0, 1):
            journal.append(Step.GENERATE, f"iteration-{t}", compute={"prefilled": 40, "sampled": 60})
            journal.append(Step.TRAIN, f"iteration-{t}", steps=10 + t, compute={"trained": 300, "scored": 200})
        journal.append(Step.TRAIN, "baseline/sft/iteration-0", steps=12, compute={"trained": 450})
        return run

    return make


def test_the_length_of_an_arm_is_worked_out_from_the_journal(played: Any) -> None:
    """An iteration costs 40 + 60 + 3 x 300 + 200 = 1,200. The first one of `sft` cost 3 x 450 = 1,350, so 1,050 are
    left for the second, or 3.5 epochs of 100 tokens. The arm from the base has 3 x 1,000 + 2 x 1,200 = 5,400, or 18
    epochs.
    """
    run = played("compute")
    assert epochs_of_arm(run, Stage("baseline/sft-smoothing-0.1/iteration-0"), 100) == pytest.approx(4.0)
    assert epochs_of_arm(run, Stage("baseline/sft/iteration-1"), 100) == pytest.approx(3.5)
    assert epochs_of_arm(run, Stage("baseline/sft-best/iteration-1"), 100) == pytest.approx(18.0)
    assert [steps_of_arm(run, Stage(f"baseline/{name}")) for name in ("sft/iteration-1", "sft-best/iteration-1")] == [
        11,
        100 + 10 + 11,
    ]


def test_arms_with_as_many_steps_have_no_number_of_epochs(played: Any) -> None:
    assert epochs_of_arm(played("steps"), Stage("baseline/sft/iteration-1"), 100) is None


def test_compute_that_was_not_counted_is_refused(played: Any) -> None:
    """The run was begun by an earlier version."""
    run = played("compute")
    run.journal.append(Step.TRAIN, "iteration-1", steps=11)
    with refused(
        RunDirectoryError, "train phase", "iteration-1", "`baseline_equal: compute`", "`baseline_equal: steps`"
    ):
        epochs_of_arm(run, Stage("baseline/sft/iteration-1"), 100)


def test_without_sft_first_there_is_no_base_to_train(llama_folder: Path) -> None:
    with refused(RecipeError, "`baseline: sft-best`", "`start: sft`", "`sft`"):
        build(llama_folder, baseline="sft-best")
    with refused(RecipeError, "`baseline_equal`", "'tokens'", "compute"):
        build(llama_folder, baseline="sft", baseline_equal="tokens")


class Interrupt(TrainerCallback):
    """Ends the first training that has saved this many checkpoints."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_save(self, *of: Any, **more: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_sft_from_the_base_that_was_interrupted_ends_at_the_same_bytes(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted after its third of nine measurements, within an epoch, with a schedule, and with as much
    compute as all the rest.
    """
    sft = {"sft_args": {"learning_rate": 1e-2, "num_train_epochs": 1, "eval_steps": 1}}
    options = {**SFT, **sft, "baseline": "sft-best", "baseline_equal": "compute", "num_iterations": 1}
    build(llama_folder, "whole", **options).run()
    original = supervise.train_supervised

    def interrupted(model: Any, tokenizer: Any, rows: Any, args: Any, callbacks: Any, *more: Any) -> Any:
        return original(model, tokenizer, rows, args, [*callbacks, Interrupt(5)], *more)

    with monkeypatch.context() as patch:
        patch.setattr(supervise, "train_supervised", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(llama_folder, **options).run()
    stage = "baseline/sft-best/iteration-0"
    assert any(Path("run", stage, "train").glob("checkpoint-*"))
    build(llama_folder, **options).run()
    resumed, whole = (entry("train", stage, folder) for folder in ("run", "whole"))
    for name in ("steps", "points", "best_step", "compute", "learning_rate"):
        assert resumed[name] == whole[name]
    assert runs.weights(f"run/{stage}/model") == runs.weights(f"whole/{stage}/model")


@pytest.mark.slow
def test_the_arm_from_the_base_is_played_where_the_run_ends(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the run ends before its second iteration, whose generations leave nothing to learn."""
    original = settle_generations

    def settle(run: Any, iteration: int) -> str | None:
        monkeypatch.setattr(run.play, "identical_stop", 0.0 if iteration else 1.0)
        return original(run, iteration)

    for module in ("loop", "phases"):
        monkeypatch.setattr(f"spin_trl.play.{module}.settle_generations", settle)
    monkeypatch.setattr("spin_trl.play.generate._identical", lambda *of: {"responses": 12, "identical": 6})
    options = {**SFT, "baseline": "sft-best", "num_iterations": 3}
    result = build(llama_folder, **options, test_dataset=tiny.sft(20).select(range(15, 20))).run()
    assert result.stopped is not None
    trained = [stage for step, stage in runs.steps() if step == "train"]
    assert trained == ["start", "iteration-0", "baseline/sft-best/iteration-0"]
    assert result.figures[Stage("baseline/sft-best/iteration-0")]["nll"]
    assert Stage("baseline/sft-best/iteration-0") in result.test_figures
    assert not read_record(RunDirectory("run")).arms["sft-best"][1:]
