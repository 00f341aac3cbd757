"""The best iteration so far is chosen by the run's metric, always known, and never replaced by a worse one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from made_up import record, stage, write_run
from runs import build
from spin_trl import SelfPlayConfig
from spin_trl.evaluation.selection import Measured, Metric, best_of
from spin_trl.play import best as module
from spin_trl.play import loop
from spin_trl.play.best import deliver_best
from spin_trl.run.directory import RunDirectory
from spin_trl.run.stage import Stage


class Marks:
    """Scorer that gives each model a predefined mark, in the order in which the models are evaluated."""

    def __init__(self, marks: list[float], prompts: int = 3) -> None:
        self.marks, self.prompts, self.calls = marks, prompts, 0

    def __call__(self, prompt: str, real: str, generated: str) -> float:
        self.calls += 1
        return self.marks[(self.calls - 1) // self.prompts]


def delivered(run_dir: str = "run") -> dict[str, Any]:
    """Return the best stage according to the run."""
    return json.loads(Path(run_dir, "best.json").read_text(encoding="utf-8"))


def played(model: Path, marks: list[float], **settings: Any) -> Any:
    """Return a run whose start and iterations get these marks."""
    settings = {"num_iterations": len(marks) - 1, "metric_for_best_iteration": "score", **settings}
    # The scorer is passed from Python, so the settings name none; `_a_scorer_is_given` allows that.
    return build(model, scorer=Marks(marks), **settings)


@pytest.fixture(autouse=True)
def _a_scorer_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow functions as scorers, although `metric_for_best_iteration: score` requires a scorer's name in the settings."""
    original = SelfPlayConfig.__post_init__

    def post_init(self: Any) -> None:
        metric, self.metric_for_best_iteration = self.metric_for_best_iteration, "nll"
        if metric == "score":
            self.greater_is_better_iteration = True
        original(self)
        self.metric_for_best_iteration = metric

    monkeypatch.setattr(SelfPlayConfig, "__post_init__", post_init)


def test_a_worse_iteration_never_takes_the_place_of_a_better_one(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With marks 1, 3, 2, 1 after the start's 0, each iteration delivers the best so far, which is never lost."""
    after: list[str] = []
    original = loop.deliver_best

    def deliver(*args: Any) -> Any:
        found = original(*args)
        after.append(delivered()["stage"])
        assert Path("run/best").resolve() == Path(found["model"]).resolve()
        return found

    monkeypatch.setattr(loop, "deliver_best", deliver)
    result = played(llama_folder, [0.0, 1.0, 3.0, 2.0, 1.0]).run()
    assert after == ["iteration-0", "iteration-1", "iteration-1", "iteration-1"]
    assert result.best_stage == "iteration-1"
    assert result.best_model == "run/iteration-1/model"
    assert delivered() == {"stage": "iteration-1", "model": "run/iteration-1/model", "metric": "score", "value": 3.0}
    assert (Path("run/best") / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_start_is_delivered_where_no_iteration_beats_it(llama_folder: Path) -> None:
    """If self-play only makes the model worse, the run delivers the start."""
    result = played(llama_folder, [5.0, 1.0, 2.0]).run()
    assert result.best_stage == "start"
    assert result.best_model == str(llama_folder)
    assert Path("run/best").resolve() == llama_folder.resolve()


@pytest.mark.slow
def test_continuing_a_run_never_forgets_the_best(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is called again, or with fewer iterations, does not step through earlier bests, not even temporarily."""
    played(llama_folder, [0.0, 1.0, 3.0]).run()
    seen: list[str] = []
    original = module.write_json
    monkeypatch.setattr(module, "write_json", lambda path, value: seen.append(value["stage"]) or original(path, value))
    result = played(llama_folder, [0.0, 1.0, 3.0], num_iterations=2).run()
    assert result.best_stage == "iteration-1"
    result = played(llama_folder, [0.0, 1.0, 3.0], num_iterations=1).run()
    assert result.best_stage == "iteration-1"
    assert set(seen) == {"iteration-1"}


@pytest.mark.slow
def test_keep_iterations_bounds_the_models(llama_folder: Path) -> None:
    """The newest and the best model are kept, and so are the generations and figures of all iterations."""
    played(llama_folder, [0.0, 3.0, 1.0, 1.0, 2.0], keep_iterations=1).run()
    kept = [t for t in range(4) if Path(f"run/iteration-{t}/model").exists()]
    assert kept == [0, 3]
    assert all(Path(f"run/iteration-{t}/metrics.json").exists() for t in range(4))
    # The run can still be resumed from there, and called again.
    played(llama_folder, [2.5], keep_iterations=1, num_iterations=5).run()
    assert [t for t in range(5) if Path(f"run/iteration-{t}/model").exists()] == [0, 4]
    assert Path("run/best").resolve() == Path("run/iteration-0/model").resolve()


@pytest.mark.parametrize(("gate", "kept"), [("wait", [0, 2]), ("warn", [2])])
def test_the_model_that_would_be_the_best_without_the_newest_stays_while_people_may_reject_that(
    tmp_path: Path, gate: str, kept: list[int]
) -> None:
    """Iteration 0 is better than iteration 1, and iteration 2 is the best, unless people reject it."""
    stages = {Stage.of(t - 1): stage(Stage.of(t - 1), figures={"nll": nll}) for t, nll in enumerate([4, 2, 3, 1])}
    directory = RunDirectory(write_run(tmp_path / "run", record(*stages.values(), metric="nll")))
    for name in stages:
        directory.model(name).mkdir(parents=True)
    play = SelfPlayConfig(human_review="every 1", review_gate=gate, keep_iterations=1)
    run: Any = SimpleNamespace(
        directory=directory, play=play, model_of=lambda name: str(directory.model(name)), done=lambda *_: None
    )
    assert deliver_best(run, 2)["stage"] == "iteration-2"
    assert [t for t in range(3) if directory.model(Stage.of(t)).exists()] == kept
    deliver_best(run, -1)  # before the first iteration there is nothing to choose from


@pytest.mark.slow
def test_all_models_stay_by_default(llama_folder: Path) -> None:
    """`keep_iterations` is off by default."""
    played(llama_folder, [0.0, 1.0, 2.0]).run()
    assert [Path(f"run/iteration-{t}/model").exists() for t in (0, 1)] == [True, True]


@pytest.mark.slow
def test_the_default_metric_is_the_held_out_nll_and_less_is_better(llama_folder: Path) -> None:
    """Without a scorer the run still has a best model."""
    result = build(llama_folder, num_iterations=2).run()
    nll = {stage: figures["nll"] for stage, figures in result.figures.items()}
    assert result.best_stage == min(nll, key=nll.__getitem__)
    assert delivered()["value"] == min(nll.values())


def test_a_run_directory_can_be_moved(llama_folder: Path) -> None:
    """The link to the best model is relative."""
    build(llama_folder, num_iterations=1, learning_rate=5e-2).run()
    assert delivered()["stage"] == "iteration-0"
    Path("run").rename("elsewhere")
    assert (Path("elsewhere/best") / "model.safetensors").is_file()


def test_a_model_whose_training_has_diverged_is_not_delivered_for_want_of_figures() -> None:
    """If no model has the metric, the newest that can answer is delivered; without held-out data, the newest."""
    sound, diverged = Measured({"nll": 1.0, "held_out": 9.0}), Measured({"held_out": 9.0})
    metric = Metric("score/none", greater_is_better=True)
    assert best_of({"start": sound, "iteration-0": sound, "iteration-1": diverged}, metric) == "iteration-0"
    assert best_of({"start": Measured({}), "iteration-0": Measured({})}, metric) == "iteration-0"
    assert best_of({"start": sound, "iteration-0": diverged}, Metric("nll", False)) == "start"
