"""What one server's answers and faults mean for a request."""

import asyncio
import json
import socket

import aiohttp
import pytest

from completion_server import CompletionServer, changed, cut, echo, hang, serving, slow, status, truncated
from messages import names, refused
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.endpoint import Endpoint, ServedModel
from spin_trl.generation.completions.failures import (
    MalformedAnswerError,
    MissingModelError,
    PassingFailureError,
    RefusedRequestError,
)
from spin_trl.generation.completions.request import COMPLETIONS, body_of
from spin_trl.generation.completions.waiting import Patience

PATIENT = Patience(request=20, connect=10)
TIMED = Patience(request=0.3, connect=10)
BODY = body_of("tiny", [5], n=1, max_tokens=2, seed=0)
KEY = ServerKey("s3cr3t-key")


def run(url, work, *, patience=PATIENT, key=KEY):
    async def main():
        async with aiohttp.ClientSession(headers=key.headers()) as session:
            return await work(Endpoint(url, session, key, patience))

    return asyncio.run(main())


def ask(server, patience=PATIENT):
    return run(server.url, lambda endpoint: endpoint.ask(COMPLETIONS, BODY), patience=patience)


@pytest.fixture(scope="module")
def shared():
    with serving(CompletionServer(key="s3cr3t-key")) as server:
        yield server


@pytest.fixture
def server(shared):
    shared.faults.clear()
    shared.model, shared.is_healthy = "tiny", True
    return shared


def test_an_answer_is_returned_whole(server):
    assert json.loads(ask(server))["choices"][0]["prompt_token_ids"] == [5]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status(429), (429, True, None)),
        (status(429, Retry_After="7"), (429, True, 7.0)),
        (status(503, Retry_After="3"), (503, True, 3.0)),
        (status(503), (503, False, None)),
        (status(500), (500, False, None)),
        (status(502), (502, False, None)),
        (status(408), (408, False, None)),
        (hang, (0, False, None)),
        (slow, (0, False, None)),
        (cut, (0, False, None)),
    ],
)
def test_a_fault_that_may_pass_is_one(server, fault, expected):
    server.faults.append(fault)
    with pytest.raises(PassingFailureError) as error:
        ask(server, TIMED if fault in (hang, slow) else PATIENT)
    assert (error.value.status, error.value.is_busy, error.value.retry_after) == expected
    assert error.value.reached


@pytest.mark.parametrize("code", [400, 401, 404, 405, 413, 422, 302])
def test_a_refusal_is_final_and_quoted(server, code):
    server.faults.append(status(code, {"error": {"message": "prompt\x1b too long"}}))
    with refused(RefusedRequestError, server.url, code, "prompt␛ too long") as error:
        ask(server)
    assert error.value.status == code


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"detail": "wrong"}, "wrong"),
        ({"message": "wrong"}, "wrong"),
        ({"error": "wrong"}, "wrong"),
        ({"error": {"error": {"message": "wrong"}}}, "wrong"),
        ({"detail": [{"loc": ["n"]}]}, '{"detail": [{"loc": ["n"]}]}'),
        ("wrong", "wrong"),
        ([1], "[1]"),
    ],
)
def test_the_servers_own_message_is_found(server, body, shown):
    server.faults.append(status(400, body))
    with refused(RefusedRequestError, 400) as error:
        ask(server)
    assert str(error.value).endswith(shown)


@pytest.mark.parametrize("code", [400, 500, 429])
def test_a_server_that_repeats_headers_does_not_reveal_the_key(server, code, caplog):
    server.faults.append(echo(code))
    with pytest.raises((RefusedRequestError, PassingFailureError)) as error:
        ask(server)
    assert names(str(error.value), "Authorization")
    assert error.value.__context__ is None
    assert "s3cr3t" not in f"{error.value!r} {error.value.args} {vars(error.value)} {caplog.text}"


def test_a_wrong_key_is_not_repeated(server):
    with refused(RefusedRequestError, 401) as error:
        run(server.url, lambda endpoint: endpoint.ask(COMPLETIONS, BODY), key=ServerKey("other-s3cr3t"))
    assert "other-s3cr3t" not in str(error.value)


def test_a_redirect_is_not_followed(server):
    server.faults.append(status(307, Location="http://elsewhere.example/"))
    with refused(RefusedRequestError, 307, "elsewhere.example"):
        ask(server)


def test_an_answer_has_a_maximum_size(server):
    server.faults.append(changed(lambda answer: answer.update(text="x" * 10_000)))
    with refused(MalformedAnswerError, 5000):
        ask(server, Patience(largest_answer=5000))


def test_half_an_answer_is_returned_to_its_reader(server):
    server.faults.append(truncated)
    with pytest.raises(ValueError):
        json.loads(ask(server))


def test_a_server_that_is_not_there_was_not_reached():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PassingFailureError) as error:
        run(url, lambda endpoint: endpoint.ask(COMPLETIONS, BODY))
    assert not error.value.reached


def test_a_server_that_accepts_no_connection_was_not_reached():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(PassingFailureError) as error:
            run(
                f"http://127.0.0.1:{full.getsockname()[1]}",
                lambda endpoint: endpoint.ask(COMPLETIONS, BODY),
                patience=Patience(request=5, connect=0.1),
            )
        for one in waiting:
            one.close()
    assert not error.value.reached


def test_a_model_is_described(server):
    found = run(server.url, lambda endpoint: endpoint.check("tiny"))
    assert found == ServedModel(server.url, "tiny", "/models/tiny", 64)


def test_another_model_is_named(server):
    server.model = "llama\x00" + "s3cr3t-key"
    with refused(MissingModelError, server.url, "'tiny'") as error:
        run(server.url, lambda endpoint: endpoint.check("tiny"))
    assert error.value.served == ["llama␀***"]
    assert "s3cr3t" not in str(error.value)


def test_a_server_that_is_not_healthy_does_not_pass(server):
    server.is_healthy = False
    with pytest.raises(PassingFailureError):
        run(server.url, lambda endpoint: endpoint.check("tiny"))
