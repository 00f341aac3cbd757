"""Trackers get the held-out figures of every iteration, in addition to Trainer's own curves."""

import json
import logging
import math
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from messages import names
from reviewed import entry_of
from runs import build, journal
from spin_trl.play import loop, trackers
from spin_trl.run.journal import Journal, Step


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return all values in a folder of TensorBoard files, by name and step, read with TensorBoard itself."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    return found


def test_tensorboard_gets_every_figure_at_its_iteration(llama_folder: Path) -> None:
    """The numbers are those of `metrics.json`: the start at 0, iterations from 1, along with the baseline."""
    result = build(llama_folder, report_to="tensorboard", baseline="sft").run()
    found = scalars(Path("run/tensorboard/held-out"))
    for step, stage in enumerate(("start", "iteration-0", "iteration-1")):
        figures = json.loads(Path("run", stage, "metrics.json").read_text(encoding="utf-8"))
        for name, value in figures.items():
            if math.isfinite(value):
                assert found[f"held-out/{name}"][step] == pytest.approx(value, rel=1e-6), name
    assert found["baseline/sft/nll"] == pytest.approx(
        {t + 1: result.figures[f"baseline/sft/iteration-{t}"]["nll"] for t in range(2)}
    )
    assert set(found["held-out/nll"]) == {0, 1, 2}


def test_training_curves_outlive_the_checkpoints(llama_folder: Path) -> None:
    """Their default folder is deleted after the iteration."""
    build(llama_folder, report_to="tensorboard", baseline="sft").run()
    for stage in ("iteration-0", "iteration-1", "baseline/sft/iteration-1"):
        assert set(scalars(Path("run/tensorboard", stage))["train/loss"]) == {1, 2, 3}
    assert not Path("run/iteration-0/train").exists()
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


@pytest.mark.slow
def test_a_place_for_training_curves_that_was_chosen_stays(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    assert "train/loss" in scalars(tmp_path / "logs")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "logs")


@pytest.mark.slow
def test_a_continued_run_reports_what_is_new(llama_folder: Path) -> None:
    build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    count = len(list(Path("run/tensorboard/held-out").iterdir()))
    build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    assert len(list(Path("run/tensorboard/held-out").iterdir())) == count
    build(llama_folder, report_to="tensorboard", num_iterations=2).run()
    assert set(scalars(Path("run/tensorboard/held-out"))["held-out/nll"]) == {0, 1, 2}


def test_figures_on_the_test_set_are_reported_once(llama_folder: Path) -> None:
    """They go to a separate tracker run, for all models that were measured, and are reported again if more models have
    been.
    """
    settings = {"report_to": "tensorboard", "test_dataset": tiny.sft(21).select(range(15, 21)), "num_iterations": 1}
    result = build(llama_folder, **settings).run()
    assert result.test_figures.keys() == {"start", result.best_stage}
    found = scalars(Path("run/tensorboard/test"))
    for stage, figures in result.test_figures.items():
        for name, value in figures.items():
            assert found[f"test/{stage}/{name}"] == {len(result.test_figures): pytest.approx(value, rel=1e-6)}
    build(llama_folder, **settings).run()
    tracked = [line for line in journal() if line["phase"] == "track" and line["stage"] == "test"]
    assert [(line["to"], line["stages"]) for line in tracked] == [(["tensorboard"], list(result.test_figures))]


def test_votes_are_reported_once_and_again_if_there_are_more(llama_folder: Path) -> None:
    settings = {"report_to": "tensorboard", "num_iterations": 1}
    build(llama_folder, **settings).run()
    reported = []
    for won, total in ((["won", "lost"], 2), ([], 2), (["won", "won"], 4)):
        votes = entry_of("iteration-0", won, reviewer=f"Reviewer {total}")
        if won:
            Journal(Path("run/journal.jsonl")).append(
                Step.REVIEW, "iteration-0", **{name: votes[name] for name in ("reviewer", "taken_by", "votes")}
            )
        build(llama_folder, **settings).run()
        reported.append(
            [line["stages"] for line in journal() if line["phase"] == "track" and line["stage"] == "review"]
        )
    assert reported == [[["iteration-0: 2"]]] * 2 + [[["iteration-0: 2"], ["iteration-0: 4"]]]
    assert scalars(Path("run/tensorboard/review"))["review/iteration-0/previous"] == {2: 0.5, 4: 0.75}


class Recorded:
    """Tracker that records its input."""

    requires_logging_directory = False
    calls: list[tuple[Any, ...]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("init", args, kwargs))

    def start(self) -> None:
        self.calls.append(("start",))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", step, values))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_the_same_in_a_run_of_their_own(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """There is one for the whole run, in the project of the training curves; it is resumed after every iteration."""
    monkeypatch.setattr(Recorded, "calls", [])
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, name, Recorded)
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    run = build(llama_folder, report_to="none", run_name="mine")
    run.state.args.project = "ours"
    train = run.launch

    def launch(state: Any, phase: str, iteration: int) -> None:
        state.args.report_to = []  # Trainer's own callback would need the real client
        train(state, phase, iteration)
        state.args.report_to = [name]

    run.launch = launch
    result = run.run()
    made = [call for call in Recorded.calls if call[0] == "init"]
    assert [args for _, args, _ in made] == [("ours",)] * 2
    assert made[0] == made[1]
    # Trackio identifies a run by its name alone, so one that starts over in the same folder gets a new name.
    assert re.fullmatch("mine-held-out" if name == "wandb" else "mine-held-out-[0-9a-f]{6}", made[0][2]["name"])
    assert made[0][2]["resume"] == "allow"
    logged = [(step, values["held-out/nll"]) for _, step, values in (c for c in Recorded.calls if c[0] == "log")]
    assert logged == [
        (t, result.figures[stage]["nll"]) for t, stage in enumerate(("start", "iteration-0", "iteration-1"))
    ]
    assert Recorded.calls.count(("finish",)) == 2


@pytest.mark.slow
def test_a_tracker_that_fails_does_not_end_the_run(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its server may be down for an hour; the run lasts a week."""

    def away(self: Any) -> None:
        raise ConnectionError("10.0.0.1:6006")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.start", away)
    with caplog.at_level(logging.WARNING):
        result = build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    assert result.best_stage
    assert any(names(message, "tensorboard", "10.0.0.1:6006") for message in caplog.messages)


@pytest.mark.slow
def test_a_tracker_without_a_way_there_is_named(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = build(llama_folder, num_iterations=1)
    run.run()
    run.state.args.report_to = ["codecarbon"]
    with caplog.at_level(logging.WARNING):
        trackers.track(run.state, 0)
    assert any(names(message, "codecarbon", "accelerate") for message in caplog.messages)


@pytest.mark.parametrize(("name", "closed"), [("run-iteration-0", True), ("somebody else's", False), (None, False)])
def test_every_training_has_a_run_of_its_own_at_wandb(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, closed: bool
) -> None:
    """Its callback would write to the run of the previous training; runs opened by others are left open."""
    finished: list[bool] = []
    opened = None if name is None else SimpleNamespace(name=name)
    client = SimpleNamespace(run=opened, finish=lambda: finished.append(True))
    monkeypatch.setitem(sys.modules, "wandb", client)
    state = build(llama_folder).state
    with trackers.training_logs(state, "iteration-1"):
        pass
    assert not finished  # W&B is not configured
    state.args.report_to = ["wandb"]
    with trackers.training_logs(state, "iteration-1"):
        assert finished == ([True] if closed else [])


@pytest.mark.slow
def test_figures_reach_the_trackers_after_an_interrupt(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is interrupted between evaluation and report; a phase run by hand reports its own figures. Each is
    reported once.
    """

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(llama_folder, report_to="tensorboard").run()
    for phase in ("generate", "train", "evaluate"):
        build(llama_folder, report_to="tensorboard").run_phase(phase, 1)
    assert set(scalars(Path("run/tensorboard/held-out"))["held-out/nll"]) == {2}
    for _ in range(2):
        build(llama_folder, report_to="tensorboard").run()
    assert set(scalars(Path("run/tensorboard/held-out"))["held-out/nll"]) == {0, 1, 2}
    assert [line["to"] for line in journal() if line["phase"] == "track"] == [["tensorboard"]] * 2


@pytest.mark.slow
def test_a_tracker_that_was_away_gets_them_later(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets them when the run is resumed."""

    def away(self: Any) -> None:
        raise ConnectionError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.tracking.TensorBoardTracker.start", away)
        build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    build(llama_folder, report_to="tensorboard", num_iterations=1).run()
    assert set(scalars(Path("run/tensorboard/held-out"))["held-out/nll"]) == {0, 1}
