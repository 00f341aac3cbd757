"""A pause ends the phase, in every process of the run, and is forgotten when the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from messages import names, refused
from runs import build
from spin_trl.errors import DivergedError, LaunchError, PausedError
from spin_trl.generation.completions.failures import RefusedRequestError
from spin_trl.generation.engine import UnansweredError
from spin_trl.play import phases
from spin_trl.play.answering.into_store import answer_into
from spin_trl.play.answering.pause import (
    check_not_paused,
    check_still_answering,
    forget_pause,
    pause,
    tell_given_up,
)
from spin_trl.run.run import Run


@pytest.fixture
def state(llama_folder: Path) -> Run:
    session = build(llama_folder, accelerate_config="ddp")
    session.directory.claim("continue")
    return session.state


def test_every_process_learns_of_a_pause(state: Run) -> None:
    check_not_paused(state)
    with refused(PausedError, "iteration-0/model"):
        pause(state, "Serve iteration-0/model.")
    with refused(PausedError, "iteration-0/model"):
        check_not_paused(state)
    forget_pause(state)
    forget_pause(state)
    check_not_paused(state)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"message": 1}'])
def test_a_file_that_is_being_written_is_no_pause(content: str, state: Run) -> None:
    state.directory.own(".paused.json").write_text(content, encoding="utf-8")
    check_not_paused(state)


@pytest.mark.parametrize("diverged", [False, True])
def test_a_process_that_does_not_ask_the_servers_ends_too(
    diverged: bool, state: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody pauses a run whose model has diverged."""

    class Other:
        is_main_process = False

        def wait_for_everyone(self) -> None:
            pass

    class Served:
        is_served = True

    monkeypatch.setattr("spin_trl.play.answering.into_store.PartialState", Other)
    if diverged:
        tell_given_up(state, DivergedError("The logits are NaN."))
        check_not_paused(state)
    else:
        with pytest.raises(PausedError):
            pause(state, "Serve it.")
    model: Any = Served()
    with refused(DivergedError if diverged else PausedError, "NaN" if diverged else "Serve it."):
        answer_into(state, model, state.rows, tmp_path / "store", 0, "answers")  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["asked", "engine"])
@pytest.mark.parametrize(
    ("kind", "more"), [(DivergedError, []), (UnansweredError, [[3]]), (RefusedRequestError, [500])]
)
def test_the_process_that_asks_the_servers_tells_the_others_that_answers_will_not_come(
    kind: Any, more: list[Any], when: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        is_served = True

        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any) -> None:
                if name == when:
                    raise kind("The servers are gone.", *more)

            return fail

    class Main:
        is_main_process, num_processes = True, 2

        def wait_for_everyone(self) -> None:
            pass

    monkeypatch.setattr("spin_trl.play.answering.into_store.PartialState", Main)
    model: Any = Failing()
    with refused(kind, "gone"):
        answer_into(run, model, run.rows(), tmp_path / "store", 0, "answers")
    with refused(DivergedError if kind is DivergedError else UnansweredError, "gone"):
        check_still_answering(run)
    forget_pause(run)
    check_still_answering(run)


@pytest.mark.parametrize("pauses", [True, False])
def test_a_launched_phase_that_paused_is_no_failure(pauses: bool, state: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier launch has left does not count."""
    with pytest.raises(PausedError):
        pause(state, "Earlier.")

    class Launch:
        stdout = None

        def __init__(self, *arguments: Any, **options: Any) -> None:
            if pauses:
                with pytest.raises(PausedError):
                    pause(state, "Serve it.")

        def wait(self) -> int:
            return 1

    monkeypatch.setattr(phases.subprocess, "Popen", Launch)
    with pytest.raises(PausedError if pauses else LaunchError) as error:
        phases.by_accelerate(state, "generate", 0)
    assert names(str(error.value), "Serve it." if pauses else "exit code 1")
