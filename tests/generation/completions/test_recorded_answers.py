"""The client reads what a real vLLM has answered: token ids, reasons why responses ended, refusals, models and version.

The recorded requests are not all like the client's own, which also says `ignore_eos: false`; the answers have the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

from completion_server import CompletionServer, serving
from messages import refused
from recorded_vllm import Recorded, recorded
from spin_trl.generation.completions.client import CompletionsClient, read_version
from spin_trl.generation.completions.failures import CutAnswerError, MalformedAnswerError, RefusedRequestError
from spin_trl.generation.completions.request import read_responses
from spin_trl.generation.completions.waiting import Patience
from spin_trl.generation.engine import MicroBatch, Response, Sampling

PROMPT = [5, 17, 42, 99, 120]
QUICK = Patience(request=5, connect=1, attempts=2, failures=2, first=0.005, longest=0.01)


def asked(name: str, samples: int | None = None, limit: int | None = None) -> tuple[MicroBatch, Sampling]:
    """Return the micro-batch and the sampling that a recorded request stands for."""
    request = recorded(name).request
    count = samples or request["n"]
    batch = MicroBatch(0, [request["prompt"]] * count, seed=request["seed"])
    most = limit or request["max_tokens"]
    return batch, Sampling(
        request["temperature"], request["top_p"], request["top_k"], most, None, count, count, request["seed"]
    )


def read(name: str, eos: set[int], **changes: int) -> list[Response]:
    """Return how the client reads a recorded answer."""
    answer = recorded(name).answer
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return read_responses(text.encode(), *asked(name, **changes), eos)


@pytest.mark.parametrize(
    ("name", "eos", "expected"),
    [
        ("eos", {2}, [([2], "eos")]),
        ("eos-as-stop-token", {0, 2}, [([2], "eos")]),
        ("stop-token", {0, 2, 38}, [([208, 208, 38], "eos")]),
        ("greedy", {0, 2}, [([208, 208, 38, 182, 289, 38, 7, 182], "length")]),
        ("greedy-adapter", {0, 2}, [([289, 123, 294, 108, 359, 156, 272, 208], "length")]),
        ("length-limit", {0, 2}, [([214, 106, 319, 130], "length")]),
        ("sampled-seed-8", {0, 2}, [([318, 352, 298, 123, 38, 358, 108, 172, 86, 38, 171, 352], "length")]),
        (
            "sampled-two",
            {0, 2},
            [
                ([123, 314, 101, 153, 211, 96, 160, 137, 241, 233, 352, 176], "length"),
                ([318, 352, 298, 123, 38, 358, 108, 172, 86, 38, 171, 352], "length"),
            ],
        ),
    ],
)
def test_token_ids_and_reasons_are_read(name: str, eos: set[int], expected: list[tuple[list[int], str]]) -> None:
    assert [(response.ids, response.finish_reason) for response in read(name, eos)] == expected


def test_one_greedy_response_is_that_of_all_samples() -> None:
    assert read("greedy", {0, 2}, samples=3) == [Response([208, 208, 38, 182, 289, 38, 7, 182], "length")] * 3


def test_an_end_token_of_the_servers_own_is_noticed() -> None:
    """0 is in its generation_config.json, and is not one of the run's."""
    with refused(MalformedAnswerError, "token 0", "[2]", "`--generation-config vllm`"):
        read("eos-of-generation-config", {2})
    with refused(MalformedAnswerError, "token 38", "[0, 2]"):
        read("stop-token", {0, 2})


def test_an_answer_that_the_server_cut_off_earlier_is_noticed() -> None:
    with refused(MalformedAnswerError, 4, "`max_tokens`", 5, "`--max-model-len`"):
        read("length-limit", {0, 2}, limit=5)


def test_answers_to_two_prompts_or_in_parts_are_not_read_as_responses() -> None:
    found = json.dumps(recorded("two-prompts").answer).encode()
    _, sampling = asked("greedy", limit=4)
    sampled = Sampling(1.0, 1.0, 0, 4, None, 2, 2, 7)
    with refused(MalformedAnswerError, "`n`", 1, 2):
        read_responses(found, MicroBatch(0, [PROMPT], seed=7), sampling, {0, 2})
    with refused(MalformedAnswerError, "`prompt_token_ids`"):
        read_responses(found, MicroBatch(0, [PROMPT] * 2, seed=7), sampled, {0, 2})
    with pytest.raises(CutAnswerError):
        read("stream", {0, 2})


@contextmanager
def playing(found: Recorded, models: Recorded | None = None) -> Iterator[CompletionsClient]:
    """Give a client of a server that answers completions, or requests to load an adapter, as was recorded."""

    async def fault(request: web.Request, answer: Any) -> web.StreamResponse:
        return as_recorded(found)

    async def listed(request: web.Request, answer: Any) -> web.StreamResponse:
        return as_recorded(models or recorded("models"))

    server = CompletionServer(fault=fault, adapter_fault=fault, models_fault=listed)
    with serving(server):
        yield CompletionsClient([server.url], "theta-0", [0, 2], patience=QUICK)


def as_recorded(found: Recorded) -> web.Response:
    text = found.answer if isinstance(found.answer, str) else json.dumps(found.answer)
    return web.Response(
        text=text, status=found.status, content_type=(found.content_type or "text/plain").split(";")[0]
    )


def test_a_client_generates_what_was_recorded() -> None:
    batch, sampling = asked("sampled-two")
    with playing(recorded("sampled-two")) as client:
        [(number, responses)] = client.generate([batch], sampling)
    assert number == 0
    assert [response.ids[:3] for response in responses] == [[123, 314, 101], [318, 352, 298]]
    assert [response.finish_reason for response in responses] == ["length", "length"]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("unknown-model", 404, "`other`"),
        ("unloaded-model", 404, "`iteration-1`"),
        ("too-long", 400, "64 tokens"),
        ("out-of-vocabulary", 400, "100000"),
        ("greedy-two", 400, "greedy"),
    ],
)
def test_what_refuses_a_request_is_quoted(name: str, status: int, reason: str) -> None:
    batch, sampling = asked("greedy")
    with playing(recorded(name)) as client, refused(RefusedRequestError, status, reason):
        list(client.generate([batch], sampling))


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("load-adapter-again", 400, "'iteration-1'"),
        ("load-adapter-missing", 404, "no-such"),
        ("load-adapter-dora", 500, "DoRA"),
        ("load-adapter-rank", 500, "rank"),
    ],
)
def test_what_refuses_an_adapter_is_quoted(name: str, status: int, reason: str) -> None:
    with playing(recorded(name)) as client, refused(RefusedRequestError, status, reason):
        client.load_adapter("iteration-1", "/models/iteration-1")


def test_an_adapter_that_is_loaded_raises_nothing() -> None:
    with playing(recorded("load-adapter")) as client:
        client.load_adapter("iteration-1", "/models/iteration-1")


def test_the_key_that_a_server_asks_for_is_named() -> None:
    found = recorded("models-without-key")
    with playing(found, models=found) as client, refused(RefusedRequestError, found.status):
        client.available()


def test_the_served_model_and_the_version_are_read() -> None:
    with playing(recorded("greedy")) as client:
        [[model]] = client.available()[0].values()
    assert (model.name, model.root, model.max_length, model.parent) == ("theta-0", "/models/theta-0", 64, None)
    assert read_version(json.dumps(recorded("version").answer).encode()) == "0.31.0"
