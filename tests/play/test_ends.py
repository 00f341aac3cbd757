"""A baseline arm whose training diverges ends, and self-play continues without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from messages import logged, names
from runs import ROWS, build, entry, journal, steps, weights
from spin_trl.errors import BrokenWeightsError, DivergedError
from spin_trl.play import supervise
from spin_trl.play.ends import end_arm, has_ended
from spin_trl.report.record import read_record
from spin_trl.report.verdict import remarks
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Step
from spin_trl.run.stage import Stage

BROKEN = {"baseline": "sft", "baseline_learning_rate": 1e30}
"""After the arm's first step its weights are so large that its second loss is NaN; self-play has another learning rate."""

ARM = "baseline/sft/iteration-0"


def trained(run_dir: str = "run") -> list[str]:
    """Stages that were trained, in order."""
    return [stage for phase, stage in steps(run_dir) if phase == "train"]


def test_self_play_goes_on_without_an_arm_that_diverges(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end is in the log, journal, table and report. A resumed run does not try again, except with another `on_nan`."""
    result = build(llama_folder, **BROKEN).run()
    assert trained() == ["iteration-0", "iteration-1"]
    assert set(result.figures) == {"start", "iteration-0", "iteration-1"}
    end = entry("diverged", ARM)
    assert (end["at_step"], end["on_nan"]) == (2, "stop")
    logged(caplog, "Plain SFT, iteration 0", "step 2", "`baseline_learning_rate`", "`on_nan`")
    assert not list(Path("run/baseline").rglob("checkpoint-*"))
    record = read_record(RunDirectory("run"))
    assert record.is_finished
    (remark,) = [one for one in remarks(record) if names(one, "Plain SFT", "iteration 0")]
    assert names(remark, "step 2", "`baseline_learning_rate`")
    assert names(Path("run/table.txt").read_text(encoding="utf-8"), "plain SFT, iteration 0", "diverged")
    before = journal()
    build(llama_folder, **BROKEN).run()
    assert journal() == before
    build(llama_folder, **BROKEN, on_nan="skip").run()
    assert [line["on_nan"] for line in journal() if line["phase"] == "diverged"] == ["stop", "skip"]


@pytest.mark.slow
def test_self_play_has_the_same_bytes_as_without_the_arm(llama_folder: Path) -> None:
    """Also where the journal ends with the arm's end, as in a run of an earlier version, which ended there."""
    build(llama_folder, "alone").run()
    build(llama_folder, num_iterations=1, **BROKEN).run()
    assert steps()[-1] == ("diverged", ARM)
    build(llama_folder, **BROKEN).run()
    for stage in ("iteration-0", "iteration-1"):
        assert weights(f"run/{stage}/model") == weights(f"alone/{stage}/model")


@pytest.mark.parametrize("held_out", [0.2, pytest.param(0.0, marks=pytest.mark.slow)])
def test_an_arm_whose_model_is_broken_is_not_trained_further(held_out: float, llama_folder: Path) -> None:
    """Its only step had a finite loss. Measuring its model shows that it has diverged; without held-out prompts, training
    further does."""
    result = build(llama_folder, **BROKEN, max_steps=1, held_out_fraction=held_out).run()
    assert trained() == ["iteration-0", ARM, "iteration-1"]
    (end,) = [line for line in journal() if line["phase"] == "diverged"]
    assert end["stage"] == (ARM if held_out else "baseline/sft/iteration-1")
    assert names(end["reason"], "`baseline_learning_rate`", "1e+30")
    if held_out:
        assert result.figures[ARM] == {"held_out": 3.0}
    assert read_record(RunDirectory("run")).is_finished


def test_weights_that_hold_nan_are_those_of_the_arms_own_model(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason names them, and no other checkpoint to start from."""
    run = build(llama_folder, baseline="sft").state
    Path("run").mkdir()
    run.journal.append(Step.TRAIN, ARM, learning_rate=1e30)
    following = Stage.of(1, "sft")
    end_arm(run, following, BrokenWeightsError("Start from another checkpoint.", "1 parameter: `a`"))
    end = entry("diverged", following)
    assert names(end["reason"], ARM, "NaN", "1 parameter: `a`", "`baseline_learning_rate`", "1e+30")
    assert (end["at_step"], end["rows"], end["on_nan"]) == (None, [], "stop")
    logged(caplog, end["reason"])
    assert [has_ended(run, Stage.of(t, "sft")) for t in range(3)] == [False, True, True]
    assert not has_ended(run, Stage.of(2, "sft-dft"))


@pytest.mark.slow
def test_other_arms_and_the_test_set_are_played_without_one_that_ends(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best SFT from the base is one that may end. Where a longer run ends it is tried again, as another training."""
    original, tried = supervise.train_supervised, []

    def train(model: Any, tokenizer: Any, rows: Any, args: Any, *others: Any) -> Any:
        if "sft-best" in args.output_dir:
            tried.append(Path(args.output_dir).parent.name)
            raise DivergedError("NaN", 3, [["k1"]])
        return original(model, tokenizer, rows, args, *others)

    monkeypatch.setattr(supervise, "train_supervised", train)
    options = {"start": "sft", "sft_args": {"num_train_epochs": 1}, "baseline": ["sft-best", "sft"]}
    options["test_dataset"] = tiny.sft(20).select(range(ROWS, 20))
    result = build(llama_folder, **options, num_iterations=1).run()
    assert set(result.test_figures) >= {"base", "start", ARM}
    end = entry("diverged", "baseline/sft-best/iteration-0")
    assert (end["at_step"], end["rows"], end["reason"]) == (3, [["k1"]], "NaN")
    build(llama_folder, **options).run()
    assert trained() == ["start", "iteration-0", ARM, "iteration-1", "baseline/sft/iteration-1"]
    assert tried == ["iteration-0", "iteration-1"]
