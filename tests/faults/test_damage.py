"""Every harm changes a file, or reports that it can't; the choice depends only on the seed."""

import random
from pathlib import Path

import pytest

from faults.damage import FINISHED, HARMS, State, files_of, trials
from faults.runs import TASKS, Undisturbed
from spin_trl.files import read_json

CONTENT = b'{"dataset": "0123", "num_rows": 8}\n'
PATH = "run/iteration-0/generations/generations.json"


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Return a run with one manifest, and another run."""
    for name, content in (("one", CONTENT), ("two", CONTENT.replace(b"8", b"9"))):
        path = tmp_path / name / PATH
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    run = Undisturbed(TASKS[0], tmp_path / "one", tmp_path / "model", {}, [])
    return State(FINISHED, tmp_path / "one", run, tmp_path / "two")


def harmed(way: str, state: State) -> bytes | None:
    return HARMS[way](CONTENT, random.Random(0), state, PATH)


def test_harms_are_what_their_names_say(state: State) -> None:
    cut, zeros, flipped = harmed("cut", state), harmed("ends in NUL bytes", state), harmed("one bit flipped", state)
    assert CONTENT.startswith(cut)
    assert 0 < len(cut) < len(CONTENT)
    assert (harmed("emptied", state), harmed("deleted", state)) == (b"", None)
    assert (len(zeros), zeros[-1:]) == (len(CONTENT), b"\0")
    assert CONTENT.startswith(zeros.rstrip(b"\0"))
    (changed,) = [one ^ other for one, other in zip(flipped, CONTENT, strict=True) if one != other]
    assert changed.bit_count() == 1
    assert harmed("another run's", state) == CONTENT.replace(b"8", b"9")


def test_another_shape_is_still_json(state: State, tmp_path: Path) -> None:
    for seed in range(20):
        content = HARMS["of another shape"](CONTENT, random.Random(seed), state, PATH)
        (tmp_path / "value.json").write_bytes(content)
        assert read_json(tmp_path / "value.json") != {"dataset": "0123", "num_rows": 8}


def test_a_seed_gives_the_same_trials(state: State) -> None:
    assert files_of(state.folder) == [PATH]
    assert len(trials(1, [state])) == len(HARMS)
    assert [trial.name for trial in trials(1, [state])] == [trial.name for trial in trials(1, [state])]
