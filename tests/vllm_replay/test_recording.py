"""An answer is found by its request and the weights that gave it; what was not recorded is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from real_vllm import RECORDED
from vllm_replay.recording import COMPLETE, LOAD, NotRecordedError, Recording, key_of, pack, read


def line(of: str, answer: str, rank: int | None = None, path: str = COMPLETE, **asked: Any) -> dict[str, Any]:
    return {
        "of": of, "rank": rank, "method": "POST", "path": path, "asked": asked,
        "status": 200, "type": None, "answer": answer,
    }  # fmt: skip


def recording() -> Recording:
    made = Recording()
    for known in (
        {"vllm": "0.31.0"},
        {"weights": "one", "sample": [1.0, 0.0]},
        {"weights": "two", "sample": [1.0, 0.3]},
        line("one", "first", model="a", prompt=[5]),
        line("one", "asked again", model="a", prompt=[5]),
        line("two", "second", model="b", prompt=[5]),
        {"of": "two", "exit": 3, "log": "the last lines"},
    ):
        made.add(known)
    return made


def asked(prompt: list[int]) -> str:
    return key_of("POST", COMPLETE, None, {"model": "another name", "prompt": prompt})


def test_the_first_answer_of_the_nearest_weights_is_given() -> None:
    assert recording().answer([1.0, 0.01], asked([5]))["answer"] == "first"
    assert recording().answer([1.0, 0.25], asked([5]))["answer"] == "second"


def test_other_requests_and_other_weights_have_no_answer() -> None:
    with pytest.raises(NotRecordedError) as error:
        recording().answer([1.0, 0.0], asked([6]))
    assert '"prompt": [6]' in str(error.value)
    for other in ([2.0, 0.0], [1.0, 0.0, 0.0]):
        with pytest.raises(NotRecordedError):
            recording().answer(other, asked([5]))


def test_how_a_server_ended_is_known_by_its_weights() -> None:
    ended = recording().exit_of([1.0, 0.3])
    assert ended is not None
    assert ended["exit"] == 3
    assert recording().exit_of([1.0, 0.0]) is None


def test_an_adapter_is_loaded_under_any_name_by_a_server_of_the_same_rank() -> None:
    one, other = {"lora_name": "a", "lora_path": "/a"}, {"lora_name": "b", "lora_path": "/b"}
    assert key_of("POST", LOAD, 8, one) == key_of("POST", LOAD, 8, other)
    assert key_of("POST", LOAD, 8, one) != key_of("POST", LOAD, 16, one)
    assert key_of("POST", COMPLETE, 8, {"n": 1}) == key_of("POST", COMPLETE, 16, {"n": 1})


def test_what_several_servers_wrote_is_packed_with_each_answer_once(tmp_path: Path) -> None:
    written = [
        {"vllm": "0.31.0"},
        {"weights": "f3", "sample": [1.0]},
        line("f3", "first", model="a"),
        {"weights": "07", "sample": [1.0]},
        {"weights": "aa", "sample": [2.0]},
        line("07", "again", model="b"),
        line("aa", "of others", model="b"),
    ]
    raw = tmp_path / "runs.jsonl"
    raw.write_text("".join(json.dumps(one) + "\n" for one in written), encoding="utf-8")
    found = read(pack(raw))
    assert found.version == "0.31.0"
    assert found.samples == {"weights-0": [1.0], "weights-1": [2.0]}
    answers = [one["answer"] for of_request in found.answers.values() for one in of_request.values()]
    assert answers == ["first", "of others"]
    assert not raw.exists()


@pytest.mark.parametrize("name", ["runs", "tokens", "weights"])
def test_recordings_state_their_version_and_no_path_of_the_machine(name: str) -> None:
    found = read(RECORDED / f"{name}.jsonl.gz")
    assert found.version == "0.31.0"
    assert found.samples
    text = "".join(json.dumps(line) for line in found.lines())
    folders = set(re.findall(r"(?<![\w.:/<-])/[\w.-]+(?=/)", text))
    assert folders <= {"/v1", "/docs", "/models", "/envs", "/python"}
