"""Processes of continuous batching share the prompts, end with their run, and report what fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from messages import refused
from spin_trl.errors import LaunchError
from spin_trl.generation.continuous import workers as module
from spin_trl.generation.continuous.worker import Job
from spin_trl.generation.continuous.workers import AHEAD, ContinuousWorkers, continuous_workers
from spin_trl.generation.engine import MicroBatch, Response, Sampling, UnansweredError

SAMPLING = Sampling(0.0, 1.0, 0, max_new_tokens=6, max_length=None, num_generations=1, batch_size=1, seed=0)

SCRIPT = """
import json, os, sys

def tell(**message):
    print(json.dumps(message), flush=True)

does = os.environ["DOES"]
print("a line of a library", file=sys.stderr, flush=True)
sys.stdin.readline()
if does == "no model":
    tell(error="no-such-model")
    sys.exit(1)
tell(ready=True)
for line in sys.stdin:
    message = json.loads(line)
    if "end" in message:
        tell(done=True)
    elif "number" in message:
        number = message["number"]
        if does == "dies" and number == 3:
            os._exit(9)
        if does == "fails" and number == 3:
            tell(error="OutOfMemory")
            sys.exit(1)
        ids = [[os.getpid(), *prompt] for prompt in message["prompts"]]
        tell(number=number, responses=[[one, "length"] for one in ids])
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that makes workers which behave as told: every response is the worker's number and the prompt."""

    def started(does: str = "", count: int = 2) -> ContinuousWorkers:
        script = tmp_path / "worker.py"
        script.write_text(SCRIPT, encoding="utf-8")
        monkeypatch.setattr(module, "_command", lambda: [sys.executable, "-I", "-S", str(script)])
        monkeypatch.setenv("DOES", does)
        return ContinuousWorkers([(job(tmp_path), str(number)) for number in range(count)])

    return started


def job(path: Path) -> Job:
    return Job(str(path), {"dtype": "float32"}, False, None, [1], 0, 4, 32, use_cpu=True)


def batches(count: int) -> list[MicroBatch]:
    return [MicroBatch(number, [[number, 5]], seed=number) for number in range(count)]


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_the_least_busy_worker_is_asked_and_both_work_again(stand_in: Any) -> None:
    workers = stand_in()
    for _ in range(2):
        found = dict(workers.generate(batches(100), SAMPLING))
        assert sorted(found) == list(range(100))
        assert all(response.ids[1:] == [number, 5] for number, [response] in found.items())
        assert len({response.ids[0] for [response] in found.values()}) == 2
    workers.end()
    assert children() == []


def test_no_more_are_taken_than_fit(stand_in: Any) -> None:
    """A consumer that is slow, or a million prompts, takes no memory."""
    workers, taken = stand_in(), []
    generator = workers.generate((taken.append(batch) or batch for batch in batches(1000)), SAMPLING)
    next(generator)
    assert len(taken) == 2 * (4 + AHEAD)
    generator.close()
    assert children() == []


@pytest.mark.parametrize(("does", "parts"), [("fails", ("OutOfMemory",)), ("dies", ("a line of a library",))])
def test_what_was_finished_is_kept_if_a_worker_fails(does: str, parts: tuple[str, ...], stand_in: Any) -> None:
    workers, found = stand_in(does), []
    with refused(UnansweredError, *parts) as error:
        for number, _ in workers.generate(batches(20), SAMPLING):
            found.append(number)
    assert 3 in error.value.numbers  # type: ignore[attr-defined]
    assert len(found) >= 3
    assert not set(found) & set(error.value.numbers)  # type: ignore[attr-defined]
    assert children() == []
    with refused(LaunchError, "resume"):
        next(workers.generate(batches(1), SAMPLING))


def test_a_worker_that_can_not_load_its_model_says_why(stand_in: Any) -> None:
    with refused(LaunchError, "no-such-model"):
        stand_in("no model")
    assert children() == []


@pytest.mark.slow
def test_a_real_worker_answers_and_ends(llama_folder: Path) -> None:
    with continuous_workers([(job(llama_folder), None)]) as workers:
        [(number, responses)] = workers.generate(batches(1), SAMPLING)
        assert (number, len(responses), type(responses[0])) == (0, 1, Response)
        assert len(responses[0].ids) <= 6
        [pid] = children()
    assert not psutil.pid_exists(pid)
