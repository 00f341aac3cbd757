"""The client generates, scores and ends as code that is not asynchronous expects."""

import dataclasses
import os
import random
import signal
import threading

import psutil
import pytest
from aiohttp import web

from completion_server import (
    EOS,
    CompletionServer,
    answered,
    as_it_is,
    cut,
    echo,
    hang,
    logprob,
    serving,
    status,
    truncated,
    until,
)
from messages import refused
from recorded_vllm import recorded
from spin_trl.errors import RecipeError
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.client import CompletionsClient, KnownResponses
from spin_trl.generation.completions.failures import MalformedAnswerError, NoEndpointError, RefusedRequestError
from spin_trl.generation.completions.waiting import Patience
from spin_trl.generation.engine import MicroBatch, Response, Sampling

SAMPLING = Sampling(1.0, 1.0, 0, max_new_tokens=5, max_length=None, num_generations=2, batch_size=2, seed=0)
QUICK = Patience(request=5, connect=0.5, attempts=5, failures=4, probe=0.02, gone=0.3, first=0.005, longest=0.05)


def test_a_server_that_has_gone_has_no_version():
    with serving(CompletionServer(version="0.31.0"), CompletionServer(version="0.32.0")) as (one, two):
        client = CompletionsClient([one.url, two.url], "tiny", [EOS], patience=QUICK)
        two.stop()
        assert client.version() == "0.31.0"


def batches(count, samples=2):
    return [MicroBatch(number, [[3 + number, 4]] * samples, seed=number * 10) for number in range(count)]


def expected(batch, eos_after=None):
    """Return the responses to a micro-batch, worked out from the server's rule."""
    every = [answered(list(batch.prompts[0]), batch.seed + sample, 5) for sample in range(len(batch.prompts))]
    if eos_after is None:
        return [Response(ids, "length") for ids in every]
    return [Response([*ids[:eos_after], EOS], "eos") for ids in every]


def client(*servers, **settings):
    return CompletionsClient([one.url for one in servers], "tiny", [EOS], **{"patience": QUICK, **settings})


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Fail if a test leaves a thread or a socket."""
    before = set(threading.enumerate())
    sockets = len(psutil.Process().net_connections())
    yield
    until(lambda: set(threading.enumerate()) <= before)
    until(lambda: len(psutil.Process().net_connections()) <= sockets)


@pytest.fixture
def server():
    with serving(CompletionServer()) as server:
        yield server


@pytest.mark.parametrize("ends_after", [None, 2])
def test_every_micro_batch_gets_its_responses(server, ends_after):
    server.ends_after = ends_after
    work = batches(50)
    found = dict(client(server, concurrency=8).generate(work, SAMPLING))
    assert found == {batch.number: expected(batch, ends_after) for batch in work}


def test_requests_in_progress_are_bounded(server):
    server.delay = 0.02
    assert len(list(client(server, concurrency=5).generate(batches(30), SAMPLING))) == 30
    assert server.most == 5


def test_micro_batches_are_taken_as_they_are_needed(server):
    taken = 0

    def work():
        nonlocal taken
        for batch in batches(40):
            taken += 1
            yield batch

    for count, _ in enumerate(client(server, concurrency=4, ahead=3).generate(work(), SAMPLING), start=1):
        assert taken <= count + 7
    assert taken == 40


def test_faults_of_every_kind_change_nothing():
    """Half of all answers are faulty, and one of two endpoints dies half-way."""
    chance = random.Random(0)
    faults = [status(500), status(429), status(429, Retry_After="0"), truncated, cut]

    async def sometimes(request, answer):
        from aiohttp import web

        return await chance.choice(faults)(request, answer) if chance.random() < 0.3 else web.json_response(answer)

    work = batches(80)
    with serving(CompletionServer(fault=sometimes, delay=0.002), CompletionServer(fault=sometimes)) as servers:
        patience = Patience(attempts=20, failures=8, probe=0.02, gone=20, first=0.002, longest=0.02)
        found = {}
        for number, responses in client(*servers, concurrency=8, patience=patience).generate(work, SAMPLING):
            found[number] = responses
            if len(found) == 40:
                servers[0].stop()
    assert found == {batch.number: expected(batch) for batch in work}


def test_what_is_finished_comes_before_all_are_gone(server):
    found = []
    with refused(NoEndpointError, server.url):
        for number, _ in client(server, concurrency=2, ahead=1).generate(batches(40), SAMPLING):
            found.append(number)
            if len(found) == 10:
                server.stop()
    assert len(found) >= max(10, len(server.bodies) - 2)


def test_a_refusal_comes_after_what_is_in_progress(server):
    server.delay = 0.05
    server.faults.append(status(400, {"message": "413 tokens"}))
    found = []
    with refused(RefusedRequestError, "413 tokens"):
        for number, _ in client(server, concurrency=4).generate(batches(20), SAMPLING):
            found.append(number)
    assert len(found) == len(server.bodies) - 1
    assert len(server.bodies) <= 4


def test_closing_early_cancels_at_the_server(server):
    server.faults.extend([hang, hang, hang, as_it_is])
    server.fault = hang
    results = client(server, concurrency=4, patience=Patience()).generate(batches(20), SAMPLING)
    next(results)
    results.close()
    until(lambda: server.cancelled >= 3)


def test_an_interrupt_cancels_at_the_server(server):
    server.fault = hang

    def when_all_are_sent():
        until(lambda: len(server.bodies) == 4)
        os.kill(os.getpid(), signal.SIGINT)

    interrupt = threading.Thread(target=when_all_are_sent)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        list(client(server, concurrency=4, patience=Patience()).generate(batches(20), SAMPLING))
    interrupt.join()
    until(lambda: server.cancelled == 4)


def test_a_generator_that_is_dropped_cancels(server):
    server.faults.extend([hang, hang, hang, hang, as_it_is])
    results = client(server, patience=Patience()).generate(batches(5), SAMPLING)
    next(results)
    del results
    until(lambda: server.cancelled == 4)


def test_an_error_of_the_work_is_raised(server):
    def work():
        yield from batches(3)
        raise OSError("the disk")

    with pytest.raises(OSError):
        list(client(server).generate(work(), SAMPLING))


def test_a_temperature_that_vllm_would_change_is_refused(server):
    with pytest.raises(RecipeError):
        list(client(server).generate(batches(1), Sampling(0.001, 1.0, 0, 5, None, 2, 2, 0)))
    assert server.bodies == []


def test_a_check_describes_each_server(server):
    assert [(one.url, one.name) for one in client(server).check()] == [(server.url, "tiny")]
    assert server.bodies[0]["max_tokens"] == 1


def test_a_server_without_token_ids_is_refused(server):
    async def without(request, answer):
        from aiohttp import web

        for choice in answer["choices"]:
            del choice["token_ids"], choice["prompt_token_ids"]
        return web.json_response(answer)

    server.fault = without
    with refused(MalformedAnswerError, server.url, "`return_token_ids`"):
        client(server).check()


def test_responses_are_scored_at_one_server():
    pairs = [([5, 6], [7, 8]), ([1], [2]), ([4, 4, 4], [9])]
    with serving(CompletionServer(), CompletionServer()) as servers:
        found = client(*servers).score(f"{servers[1].url}/v1", pairs)
    assert found == [[logprob(2, 7), logprob(3, 8)], [logprob(1, 2)], [logprob(3, 9)]]
    assert [len(one.bodies) for one in servers] == [0, 4]


def test_a_server_of_another_client_is_not_scored(server):
    with pytest.raises(ValueError):
        client(server).score("http://127.0.0.1:1", [([1], [2])])


def test_the_key_is_sent_and_not_shown(caplog):
    with serving(CompletionServer(key="s3cr3t-key", fault=echo(400))) as server:
        made = client(server, key=ServerKey("s3cr3t-key"))
        with refused(RefusedRequestError, "Authorization") as error:
            list(made.generate(batches(1), SAMPLING))
    assert server.keys == ["Bearer s3cr3t-key"]
    shown = [str(error.value), repr(error.value), repr(made), caplog.text]
    ours = [entry for entry in error.traceback if entry.path.parent.name == "completions"]
    ours = [entry for entry in ours if not entry.path.name.startswith("test_")]
    assert len(ours) > 3
    assert not [text for text in shown + [repr(entry.locals) for entry in ours] if "s3cr3t" in text]


@pytest.mark.parametrize(
    "settings",
    [
        {"urls": []},
        {"urls": ["127.0.0.1"]},
        {"urls": ["http://host"], "key": ServerKey("x")},
        {"concurrency": 0},
        {"ahead": -1},
        {"grace": -1.0},
        {"eos_token_ids": []},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(RecipeError):
        CompletionsClient(**{"urls": ["http://127.0.0.1:1"], "model": "tiny", "eos_token_ids": [EOS], **settings})


def test_every_server_loads_an_adapter_and_a_refusal_is_quoted():
    with serving(CompletionServer()) as one, serving(CompletionServer()) as two:
        both = CompletionsClient([one.url, two.url], "run-iteration-1", [EOS])
        both.load_adapter("run-iteration-1", "/runs/run/iteration-1/model")
        assert one.adapters == two.adapters == {"run-iteration-1": "/runs/run/iteration-1/model"}
        with refused(RefusedRequestError, "already loaded", one.url if one.adapters else two.url):
            CompletionsClient([one.url], "again", [EOS]).load_adapter("again", "/runs/run/iteration-1/model")


def test_an_adapter_that_is_refused_as_a_failure_of_the_server_is_given_up_soon():
    """vLLM refuses a rank that is too high with status 500; the server does not have the model that it would need."""
    with serving(CompletionServer()) as one:
        one.adapter_fault = status(500, {"error": {"message": "rank 64"}})
        patience = dataclasses.replace(QUICK, attempts=5, failures=3, gone=60)
        with refused(RefusedRequestError, one.url, 500, "rank 64"):
            CompletionsClient([one.url], "new", [EOS], patience=patience).load_adapter("new", "/new")


def test_adapters_are_recognised_in_the_list_of_a_real_server(server):
    async def real(request, answer):
        return web.json_response(recorded("models-with-adapter").answer)

    server.models_fault = real
    [models] = client(server).available()[0].values()
    assert [(model.name, model.root, model.parent, model.max_length) for model in models] == [
        ("theta-0", "/models/theta-0", None, 64), ("iteration-1", "/models/iteration-1", "theta-0", None),
    ]  # fmt: skip


def test_every_server_unloads_an_adapter():
    with serving(CompletionServer()) as one, serving(CompletionServer()) as two:
        both = CompletionsClient([one.url, two.url], "tiny", [EOS])
        both.load_adapter("run-iteration-1", "/runs/run/iteration-1/model")
        both.unload_adapter("run-iteration-1")
        assert one.adapters == two.adapters == {}
        with refused(RefusedRequestError, "run-iteration-1", 404):
            both.unload_adapter("run-iteration-1")


def test_the_models_of_all_servers_are_listed():
    with serving(CompletionServer(model="a")) as one, serving(CompletionServer(model="b")) as two:
        one.adapters["c"] = "/c"
        two.stop()
        served, failures = client(one, two).available()
        assert [(model.name, model.root, model.parent) for model in served[one.url]] == [
            ("a", "/models/tiny", None), ("c", "/c", "a"),
        ]  # fmt: skip
        assert [*failures] == [two.url]
        one.models_fault = status(401)
        with refused(RefusedRequestError, one.url, 401):
            client(one, two).available()


@pytest.mark.parametrize("is_right", [True, False])
def test_a_server_that_comes_back_with_other_weights_is_not_used(server, is_right):
    """Its log-probs of known responses are asked for first."""
    scored = []

    def check(logprobs):
        scored.append(logprobs)
        if not is_right:
            raise MalformedAnswerError("other weights")

    known = KnownResponses([([5, 6], [7, 8]), ([9], [10])], check)
    server.faults.extend([cut] * QUICK.failures)
    asked = client(server, concurrency=1, known=known)
    if is_right:
        assert len(list(asked.generate(batches(3), SAMPLING))) == 3
    else:
        with refused(NoEndpointError, server.url, "other weights"):
            list(asked.generate(batches(3), SAMPLING))
    assert scored[0] == [[logprob(2, 7), logprob(3, 8)], [logprob(1, 10)]]


def test_each_server_gets_its_own_key_and_no_other():
    with serving(CompletionServer(key="a" * 20)) as one, serving(CompletionServer(key="b" * 20)) as two:
        keys = {server.url: ServerKey(server.key) for server in (one, two)}
        both = CompletionsClient([one.url, two.url], "tiny", [EOS], key=keys, concurrency=2)
        assert len(list(both.generate(batches(8), SAMPLING))) == 8
        assert {*one.keys} == {f"Bearer {one.key}"}
        assert {*two.keys} == {f"Bearer {two.key}"}
