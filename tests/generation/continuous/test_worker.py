"""A worker answers what it reads, line by line, with the model that its job names."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from messages import names
from spin_trl.errors import DataError
from spin_trl.generation.continuous.worker import Job, job_message, work
from spin_trl.generation.engine import Sampling
from spin_trl.generation.engines.transformers import TransformersEngine

GREEDY = Sampling(0.0, 1.0, 0, max_new_tokens=6, max_length=None, num_generations=1, batch_size=1, seed=0)


def job(path: Path, **changes: Any) -> Job:
    return dataclasses.replace(
        Job(str(path), {"dtype": "float32"}, False, None, [1], 0, 4, 32, use_cpu=True), **changes
    )


def told(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a worker writes."""
    sink = io.BytesIO()
    try:
        work(io.BytesIO(b"".join(json.dumps(message).encode() + b"\n" for message in messages)), sink)
    finally:
        found = [json.loads(line) for line in sink.getvalue().splitlines()]
    return found


def test_prompts_are_answered_for_each_sampling_in_turn(llama_folder: Path) -> None:
    model = tiny.model("llama")
    prompts = [[5, 6, 7], [8, 9]]
    expected = TransformersEngine(model, [1], 0).answer(prompts, GREEDY, seed=0)
    session: list[dict[str, Any]] = [
        {"sampling": dataclasses.asdict(GREEDY)},
        *({"number": number, "prompts": [prompt], "seed": 0} for number, prompt in enumerate(prompts)),
        {"end": True},
    ]
    ready, *rest = told(job_message(job(llama_folder)), *session, *session)
    assert ready == {"ready": True}
    assert [list(message) for message in rest] == 2 * [*2 * [["number", "responses"]], ["done"]]
    for message in [*rest[:2], *rest[3:5]]:
        response = expected[message["number"]]
        assert message["responses"] == [[response.ids, response.finish_reason]]


def test_it_computes_in_the_number_format_of_the_trainer(llama_folder: Path) -> None:
    assert job(llama_folder, dtype=torch.bfloat16).engine().model.dtype == torch.bfloat16
    assert job(llama_folder).engine().model.dtype == torch.float32


def test_an_error_is_told(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with pytest.raises(DataError):
        work(io.BytesIO(json.dumps(job_message(job(tmp_path / "nothing"))).encode() + b"\n"), sink)
    [message] = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert names(message["error"], tmp_path / "nothing")
