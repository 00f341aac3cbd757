"""A SPINTrainer is fitted from its newest checkpoint, and the journal keeps the first and the last logged figures."""

import contextlib
import types
from typing import Any

import pytest

from spin_trl.play import fit as module
from spin_trl.play.fit import fit, record_fit
from spin_trl.run.compute import Compute
from spin_trl.run.journal import Step
from spin_trl.run.stage import Stage

STAGE = Stage("iteration-0")


def test_the_journal_keeps_the_first_and_the_last_logged_figures() -> None:
    """Entries without a loss, such as the summary of the training, are not figures of a step."""
    entries: list[tuple[Any, ...]] = []
    run: Any = types.SimpleNamespace(record=lambda *of, **values: entries.append((*of, values)))
    log = [
        {"loss": 0.7, "rewards/margins": 0.0},
        {"loss": 0.5},
        {"loss": 0.25, "rewards/margins": 1.5},
        {"train_loss": 9.0},
    ]
    trainer: Any = types.SimpleNamespace(state=types.SimpleNamespace(log_history=log, global_step=3), collapses=list)
    times = {"seconds": 4.0, "work_seconds": 2.0}
    record_fit(run, STAGE, trainer, {"preferences": 6}, Compute(trained=30), ("loss", "rewards/margins"), {}, times)
    ((phase, stage, found),) = entries
    assert (phase, stage) == (Step.TRAIN, STAGE)
    assert found["first"] == {"loss": 0.7, "rewards/margins": 0.0}
    assert found["last"] == {"loss": 0.25, "rewards/margins": 1.5}
    assert (found["steps"], found["preferences"], found["seconds"], found["work_seconds"]) == (3, 6, 4.0, 2.0)


@pytest.mark.parametrize("checkpoint", [None, "checkpoint-2"])
def test_training_resumes_from_the_newest_checkpoint(checkpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []
    trainer: Any = types.SimpleNamespace(
        remove_callback=lambda kind: None,
        add_callback=lambda callback: None,
        train=lambda resume_from_checkpoint: began.append(resume_from_checkpoint),
    )
    monkeypatch.setattr(module, "newest_checkpoint", lambda args: checkpoint)
    monkeypatch.setattr(module, "lowered_before", lambda run, stage, args: [])
    monkeypatch.setattr(module, "training_logs", lambda run, stage: contextlib.nullcontext())
    run: Any = types.SimpleNamespace(progress=None)
    fitted, _ = fit(run, STAGE, types.SimpleNamespace(), lambda: trainer)  # type: ignore[arg-type]
    assert fitted is trainer
    assert began == [checkpoint]
