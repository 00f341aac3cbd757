"""The result of a run names the best model, its figures, and why the run ended early."""

import json
from pathlib import Path

from messages import refused
from runs import build
from spin_trl.errors import RunDirectoryError
from spin_trl.play.result import result_of


def test_a_result_holds_the_delivered_model_and_all_figures(llama_folder: Path) -> None:
    """It can be read again from the finished run, and is refused if the link to the best model was removed."""
    session = build(llama_folder, num_iterations=1)
    result = session.run()
    assert result.best_stage in ("start", "iteration-0")
    assert result.best_model == session.state.model_of(result.best_stage)
    assert list(result.figures) == ["start", "iteration-0"]
    stored = json.loads(Path("run/iteration-0/metrics.json").read_text(encoding="utf-8"))
    assert result.figures["iteration-0"]["nll"] == stored["nll"] > 0
    assert (result.stopped, result.test_figures, result.directory) == (None, {}, Path("run"))
    again = result_of(session.state, 0, "ended by hand")
    assert (again.best_model, again.figures, again.stopped) == (result.best_model, result.figures, "ended by hand")
    session.directory.best.unlink()
    with refused(RunDirectoryError, "best"):
        result_of(session.state, 0, None)
