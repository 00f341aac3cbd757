"""Runs whose training diverges are stopped, skip steps, or resume with half the learning rate (`on_nan`)."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from messages import names, refused
from runs import build, entry, journal, weights
from spin_trl import SPINTrainer
from spin_trl.errors import DivergedError
from spin_trl.report.record import read_record
from spin_trl.report.verdict import remarks
from spin_trl.run.directory import RunDirectory

RUN = {"num_iterations": 1, "held_out_fraction": 0.0, "max_steps": 5, "save_strategy": "steps", "save_steps": 2,
       "lr_scheduler_type": "linear"}  # fmt: skip
"""Five steps, with checkpoints after the second and the fourth."""


class KilledError(BaseException):
    """Raised like SIGKILL: nothing catches it."""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a fault that makes losses NaN, or kills: at a step while the learning rate is unchanged, or at any
    learning rate.
    """
    compute = SPINTrainer._compute_loss

    def set_faults(nan: Collection[int], first_rate: float = 0.0, kill_at: int | None = None) -> None:
        def _compute_loss(self: SPINTrainer, model: Any, inputs: Any, return_outputs: bool) -> Any:
            loss = compute(self, model, inputs, return_outputs)
            if not self.model.training:
                return loss
            step = self.state.global_step + 1
            if step == kill_at and (not first_rate or self.args.learning_rate < first_rate):
                raise KilledError
            return loss * math.nan if step in nan and self.args.learning_rate >= first_rate else loss

        monkeypatch.setattr(SPINTrainer, "_compute_loss", _compute_loss)

    return set_faults


def lowered_of(run_dir: str = "run") -> list[tuple[int, int, float]]:
    """Return at which step, back to which one, and with what share of the learning rate."""
    lines = [line for line in journal(run_dir) if line["phase"] == "lower"]
    return [(line["at_step"], line["back_to"], line["lr_scale"]) for line in lines]


def test_a_run_goes_back_to_its_checkpoint_with_half_the_rate(
    llama_folder: Path, faulty: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The decision is in journal, console and report; an interrupt after it does not change the results."""
    faulty({4}, first_rate=2e-2)
    build(llama_folder, "whole", on_nan="lower", **RUN).run()
    assert lowered_of("whole") == [(4, 2, 0.5)]
    assert names(capsys.readouterr().out, "step 4", "step 2", "0.5", "`on_nan: lower`")
    (remark,) = [one for one in remarks(read_record(RunDirectory("whole"))) if "on_nan" in one]
    assert names(remark, "step 4", "step 2", "0.5")
    for kill_at in (3, 5):
        faulty({4}, first_rate=2e-2, kill_at=kill_at)
        with pytest.raises(KilledError):
            build(llama_folder, f"killed-{kill_at}", on_nan="lower", **RUN).run()
        faulty({4}, first_rate=2e-2)
        build(llama_folder, f"killed-{kill_at}", on_nan="lower", **RUN).run()
        assert weights(f"killed-{kill_at}/iteration-0/model") == weights("whole/iteration-0/model")
        assert lowered_of(f"killed-{kill_at}") == [(4, 2, 0.5)]


def test_the_rate_is_half_of_what_the_schedule_would_have(
    llama_folder: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[int, float]] = []
    step = SPINTrainer.training_step

    def training_step(self: SPINTrainer, *args: Any, **kwargs: Any) -> Any:
        rates.append((self.state.global_step + 1, self.lr_scheduler.get_last_lr()[0]))
        assert self.optimizer.param_groups[0]["lr"] == rates[-1][1]
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SPINTrainer, "training_step", training_step)
    faulty({4}, first_rate=2e-2)
    build(llama_folder, on_nan="lower", **RUN).run()
    first, again = rates[:4], rates[4:]
    assert [number for number, _ in again] == [3, 4, 5]
    assert [rate for _, rate in again[:2]] == [rate / 2 for _, rate in first[2:]]


def test_without_a_checkpoint_it_goes_back_to_the_start_and_twice_at_most(
    llama_folder: Path, faulty: Any, caplog: pytest.LogCaptureFixture
) -> None:
    faulty({2})
    with refused(DivergedError, "step 2", "0.02", "0.01", "0.005"):
        build(llama_folder, on_nan="lower", **RUN).run()
    assert not any(names(line, "`on_nan: stop`") for line in caplog.messages)  # only a trainer by itself warns of it
    assert names(entry("diverged", "iteration-0")["reason"], "0.02", "0.01", "0.005")
    assert lowered_of() == [(2, 0, 0.5), (2, 0, 0.25)]


def test_a_checkpoint_that_leads_nowhere_is_left(llama_folder: Path, faulty: Any) -> None:
    faulty({5})
    with refused(DivergedError, "step 5"):
        build(llama_folder, on_nan="lower", **RUN).run()
    assert lowered_of() == [(5, 4, 0.5), (5, 2, 0.25)]


def test_a_run_that_has_stopped_goes_on_with_another_choice(llama_folder: Path, faulty: Any) -> None:
    """Journal and report name the skipped steps."""
    faulty({4})
    with refused(DivergedError, "step 4", "`on_nan: skip`") as error:
        build(llama_folder, **RUN).run()
    ended = entry("diverged", "iteration-0")
    assert (ended["at_step"], ended["on_nan"], ended["reason"]) == (4, "stop", str(error.value))
    assert [len(row) for row in ended["rows"]] == [3, 3, 3]  # key, iteration and sample of the last three of fifteen
    assert any(names(one, "Iteration 0", "step 4") for one in remarks(read_record(RunDirectory("run"))))
    build(llama_folder, on_nan="skip", **RUN).run()
    (skipped,) = entry("train", "iteration-0")["skipped"]
    assert (skipped["step"], len(skipped["rows"])) == (4, 3)  # the last three of fifteen
    (remark,) = remarks(read_record(RunDirectory("run")))  # it has resumed, so its end is not mentioned
    assert names(remark, "1 step", "4", "`on_nan: skip`")


def test_a_run_that_leaves_steps_out_goes_on_exactly(llama_folder: Path, faulty: Any) -> None:
    faulty({2, 4})
    build(llama_folder, "whole", on_nan="skip", **RUN).run()
    for kill_at in (3, 5):
        faulty({2, 4}, kill_at=kill_at)
        with pytest.raises(KilledError):
            build(llama_folder, f"killed-{kill_at}", on_nan="skip", **RUN).run()
        faulty({2, 4})
        build(llama_folder, f"killed-{kill_at}", on_nan="skip", **RUN).run()
        assert weights(f"killed-{kill_at}/iteration-0/model") == weights("whole/iteration-0/model")
        assert (
            entry("train", "iteration-0", f"killed-{kill_at}")["skipped"]
            == entry("train", "iteration-0", "whole")["skipped"]
        )
