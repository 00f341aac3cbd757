"""A warning is logged when real responses become unlikely while margins rise."""

from typing import Any

import pytest

from messages import names
from spin_trl.training.collapse import collapses
from trainers import build


def log_of(real: list[float], margins: list[float]) -> list[dict[str, Any]]:
    both = enumerate(zip(real, margins, strict=True), start=1)
    return [{"step": n, "rewards/chosen": chosen, "rewards/margins": margin} for n, (chosen, margin) in both]


@pytest.mark.parametrize(
    ("real", "margins", "steps"),
    [
        ([0.0, -0.3, -0.6, -1.2], [0.0, 1.0, 2.0, 3.0], [4]),  # by 0.6 nats per token: beta 0.1, 20 tokens
        ([0.0, -0.3, -0.6, -0.9], [0.0, 1.0, 2.0, 3.0], []),  # by 0.45
        ([0.0, -0.3, -0.6, -1.2], [3.0, 2.0, 1.0, 0.0], []),  # the policy loses, so the game is not won this way
        ([0.0, -2.0, 0.1, -1.2], [0.0, 1.0, 2.0, 3.0], []),  # up and down
        ([0.0, -0.6, -1.2], [0.0, 1.0, 2.0], []),  # two logs later
        ([0.5, 0.0, -0.3, -0.6, -1.2, -1.3], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0], [4, 5]),
    ],
)
def test_what_is_a_collapse(real: list[float], margins: list[float], steps: list[int]) -> None:
    assert [one.step for one in collapses(log_of(real, margins), beta=0.1, tokens=20)] == steps


def test_a_run_that_collapses_is_warned_of(llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With a learning rate far too large, there is one warning, although training continues."""
    overrides = {"learning_rate": 1.0, "max_steps": 12, "beta": 0.01}
    trainer = build(llama, overrides=overrides)
    trainer.train()
    assert trainer.collapses()
    (warning,) = [record.getMessage() for record in caplog.records if "Collapse" in record.getMessage()]
    assert names(warning, "`learning_rate`", "`beta`", f"step {trainer.collapses()[0].step}")
