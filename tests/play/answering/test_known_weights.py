"""What is compared: enough tokens of real responses, and the models that a server could have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

import tiny
from messages import refused
from runs import build
from spin_trl import SPINConfig
from spin_trl.errors import DataError, DivergedError
from spin_trl.play.answering.known_weights import KnownWeights, models_to_tell_apart, responses_to_compare
from spin_trl.run.journal import Step
from spin_trl.run.run import Run


def rows(count: int, prompt: int, response: int) -> Dataset:
    return Dataset.from_dict(
        {"prompt_ids": [[1] * prompt] * count, "real_ids": [[index + 1] * response for index in range(count)]}
    )


def settings(tmp_path: Path, max_length: int | None) -> SPINConfig:
    return SPINConfig(str(tmp_path), use_cpu=True, bf16=False, max_length=max_length)


def tokens(pairs: object) -> list[int]:
    return [len(response) for _, response in pairs]  # type: ignore[attr-defined]


def test_two_thousand_tokens_of_several_responses_are_compared(tmp_path: Path) -> None:
    found = responses_to_compare(rows(500, 10, 30), settings(tmp_path, 1024))
    assert tokens(found) == [30] * 67
    assert found != responses_to_compare(rows(500, 10, 30).select(range(67)), settings(tmp_path, 1024))
    assert tokens(responses_to_compare(rows(100, 10, 5_000), settings(tmp_path, None))) == [256] * 8
    assert tokens(responses_to_compare(rows(3, 10, 30), settings(tmp_path, 1024))) == [30] * 3


def test_a_server_has_room_for_one_more_token(tmp_path: Path) -> None:
    assert tokens(responses_to_compare(rows(2, 10, 30), settings(tmp_path, 32))) == [21, 21]
    with refused(DataError, "`max_length`", 11):
        responses_to_compare(rows(2, 10, 30), settings(tmp_path, 11))


@pytest.fixture
def run(llama_folder: Path) -> Run:
    """Return a run of four iterations, the last of which started from iteration 1."""
    session = build(llama_folder, num_iterations=4)
    session.directory.claim("continue")
    for stage in ("iteration-0", "iteration-1", "iteration-2", "iteration-3", "baseline/sft/iteration-1"):
        tiny.save(session.directory.own(stage) / "model")
    session.state.journal.append(Step.GATE, "iteration-2", opponent="iteration-1", decision="fall back")
    return session.state


@pytest.mark.parametrize(
    ("stage", "others"),
    [
        ("start", ["iteration-3"]),
        ("iteration-0", ["start", "iteration-3"]),
        ("iteration-1", ["start", "iteration-0", "iteration-3"]),
        ("iteration-3", ["start", "iteration-1"]),
        ("baseline/sft/iteration-1", ["start", "iteration-3"]),
    ],
)
def test_the_models_that_a_server_could_have(stage: str, others: list[str], run: Run) -> None:
    found = models_to_tell_apart(run, run.model_of(stage))
    assert [*found] == [stage, *others]
    assert found == {name: run.model_of(name) for name in [stage, *others]}


@pytest.mark.parametrize(
    ("step", "stage", "values"),
    [
        (Step.EVALUATE, "baseline/sft/iteration-1", {}),
        (Step.RETENTION, "baseline/sft/iteration-1", {}),
        (Step.TEST, "baseline/sft/iteration-1", {}),
        (Step.GENERATE, "iteration-2", {"opponent": "baseline/sft/iteration-1"}),
    ],
)
def test_the_model_that_answered_last_may_still_be_served(
    step: Step, stage: str, values: dict[str, str], run: Run
) -> None:
    run.journal.append(Step.EVALUATE, "iteration-2")
    run.journal.append(step, stage, **values)
    run.journal.append(Step.TRAIN, "iteration-1")
    found = models_to_tell_apart(run, run.model_of("iteration-0"))
    assert [*found] == ["iteration-0", "start", "iteration-3", "baseline/sft/iteration-1"]
    assert "iteration-2" not in found


def test_a_model_that_has_diverged_is_not_compared(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the newest, after which the run has fallen back. The one that is to answer must not have diverged."""
    monkeypatch.setattr(Run, "rows", lambda self: rows(3, 4, 5))

    def score(path: str, pairs: object) -> list[list[float]]:
        if path == run.model_of("iteration-3"):
            raise DivergedError("NaN")
        return [[-1.0] * length for length in tokens(pairs)]

    assert [*KnownWeights.of(run, run.model_of("iteration-1"), score).models] == [
        "iteration-1",
        "start",
        "iteration-0",
    ]
    with refused(DivergedError, "NaN"):
        KnownWeights.of(run, run.model_of("iteration-3"), score)


def test_each_is_scored_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "rows", lambda self: rows(3, 4, 5))
    scored: list[str] = []

    def score(path: str, pairs: object) -> list[list[float]]:
        scored.append(path)
        return [[-float(len(scored))] * length for length in tokens(pairs)]

    known = KnownWeights.of(run, run.model_of("iteration-1"), score)
    assert scored == [run.model_of(name) for name in ("iteration-1", "start", "iteration-0", "iteration-3")]
    assert (known.expected, known.tokens) == ("iteration-1", 15)
    found = known.compare([[-2.0] * 5] * 3)
    assert json.loads(json.dumps(found.distances)) == {
        "iteration-1": 1.0, "start": 0.0, "iteration-0": 1.0, "iteration-3": 2.0,
    }  # fmt: skip
    assert found.found == "start"
