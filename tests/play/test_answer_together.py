"""A served model answers the held-out prompts, the retention set and training prompts in one start of its engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from messages import names
from runs import answers, build, contents, entry, steps
from spin_trl.generation.engine import UnansweredError
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.play.answering import at_hand as module
from spin_trl.play.answering import into_store

SERVED = {"generation_continuous": True, "evaluate_greedy": True, "retain_dataset": tiny.sft(18).select(range(15, 18))}
SERVED |= {"retain_scorer": "exact_match", "on_regression": "continue", "degeneration_stop": {}}


def play(folder: Path, run_dir: str, **settings: Any) -> None:
    build(folder, run_dir, **SERVED, **settings).run()


def test_a_served_model_is_started_as_often_as_the_setting_says(llama_folder: Path, starts: list[str]) -> None:
    """The run is the same: all answers, models and figures. What differs is where the seconds were spent."""
    expected = {
        "always": ["start", "iteration-0", "iteration-1"],
        "start": ["start", "iteration-0", "iteration-0", "iteration-1"],
        "never": ["start", "start", "iteration-0", "iteration-0", "iteration-1"],
    }
    for setting in expected:
        play(llama_folder, setting, generate_ahead=setting)
        assert (setting, starts) == (setting, expected[setting])
        starts.clear()
        assert not list(Path(setting).glob("*/ahead"))
    whole = {name: contents(name, ignore=_OF_ITS_TIME) for name in expected}
    assert len(whole["never"]) > 40
    for setting in ("always", "start"):
        assert whole[setting].keys() == whole["never"].keys()
        assert [name for name, data in whole["never"].items() if whole[setting][name] != data] == []
        assert steps(setting) == steps("never")
        for iteration in ("iteration-0", "iteration-1"):
            ours, theirs = entry("generate", iteration, setting), entry("generate", iteration, "never")
            assert {**ours, **_seconds(theirs), "time": 0} == {**theirs, "time": 0}
            assert ours["work_seconds"] > 0


_OF_ITS_TIME = (
    *("journal.jsonl", "recipe.yaml", "README.md", "report.html", "plot.png", "best.json", "table.txt"),
    *("training_args.bin", ".spin_trl.json"),
)
"""Files that contain times or the name of the run, or whose format does."""


def _seconds(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if "seconds" in name}


def test_one_set_of_prompts_is_answered_where_it_is_needed(llama_folder: Path, starts: list[str]) -> None:
    """With nothing else to answer, the evaluation itself starts the engine; without a held-out set, generation does."""
    build(llama_folder, "one", generation_continuous=True, generate_ahead="never", num_iterations=1).run()
    assert starts == ["start", "start", "iteration-0"]
    starts.clear()
    build(llama_folder, "none", generation_continuous=True, held_out_fraction=0.0, num_iterations=1).run()
    assert starts == ["start"]


def test_a_model_of_this_process_is_not_loaded_once_more(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = module.load_policy
    monkeypatch.setattr(module, "load_policy", lambda path, *more: loaded.append(path) or load(path, *more))  # type: ignore[func-returns-value]
    build(llama_folder, num_iterations=1, generate_ahead="always").run()
    assert starts == []
    assert loaded == [str(llama_folder)] * 2 + ["run/iteration-0/model"]


def test_the_seconds_of_answers_ahead_are_those_of_generation(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation's own time has none of them, and its work has the time of the held-out answers."""
    took = {"sampled": 1000.0, "greedy": 100.0, "generations": 10_000.0}
    clock, passed, answer = time.monotonic, [0.0], into_store.answer_into
    monkeypatch.setattr(time, "monotonic", lambda: clock() + sum(passed))

    def answered(run: Any, model: Any, rows: Any, folder: Path, *more: Any, **others: Any) -> float:
        seconds = answer(run, model, rows, folder, *more, **others)
        passed.append(took[folder.name] if seconds else 0.0)
        return seconds + passed[-1]

    for name in ("ahead", "answer_together", "generate"):
        monkeypatch.setattr(f"spin_trl.play.{name}.answer_into", answered)
    build(llama_folder, generation_continuous=True, evaluate_greedy=True, num_iterations=1).run()
    assert starts == ["start", "iteration-0"]
    generated, evaluated = entry("generate", "iteration-0"), entry("evaluate", "start")
    for name in ("seconds", "work_seconds"):
        assert 10_000 <= generated[name] < 10_100
        assert 1_100 <= evaluated[name] < 1_200
    assert len(answers("run", "iteration-0")) == 12


def test_prompts_that_get_no_answer_ahead_do_not_keep_the_model_from_its_evaluation(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The generate phase asks for them again."""
    generate = TransformersEngine.generate

    def failing(engine: Any, batches: Any, sampling: Any) -> Any:
        for number, responses in generate(engine, batches, sampling):
            if number == 7 and len(starts) == 1:
                raise UnansweredError("A request timed out.", [number])
            yield number, responses

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    build(llama_folder, generation_continuous=True, num_iterations=1).run()
    assert starts == ["start", "start", "iteration-0"]
    assert names(caplog.text, "iteration 0", "timed out", "unanswered")
    assert steps()[1:3] == [("evaluate", "start"), ("generate", "iteration-0")]
    assert len(answers("run", "iteration-0")) == 12
