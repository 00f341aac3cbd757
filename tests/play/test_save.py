"""A model is saved as a whole, or not at all."""

from pathlib import Path

import pytest

from runs import build, steps
from spin_trl.training.trainer import SPINTrainer


def test_an_interrupt_while_a_model_is_saved_leaves_none(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is written last: without it, nothing is there, and the iteration counts as not trained."""
    run = build(llama_folder, num_iterations=1)
    for phase in ("start", "generate"):
        run.run_phase(phase, 0)

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SPINTrainer, "create_model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run_phase("train", 0)
    assert not Path("run/iteration-0/model").exists()
    assert ("train", "iteration-0") not in steps()
