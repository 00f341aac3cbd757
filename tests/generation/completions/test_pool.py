"""Requests go to the least busy endpoint, are tried again where that may help, and are given up where it can't."""

import asyncio
import dataclasses
import json
import threading
import time
from collections import deque

import pytest

from completion_server import CompletionServer, as_it_is, changed, cut, hang, serving, status, truncated, until
from messages import logged, refused
from spin_trl.generation.completions.address import ServerKey
from spin_trl.generation.completions.failures import (
    MalformedAnswerError,
    MissingModelError,
    NoEndpointError,
    RefusedRequestError,
)
from spin_trl.generation.completions.pool import Pool
from spin_trl.generation.completions.request import COMPLETIONS, body_of, choices_of
from spin_trl.generation.completions.waiting import Patience

QUICK = Patience(request=20, connect=10, attempts=4, failures=3, probe=0.02, gone=20, first=0.005, longest=0.05)
"""Short waits, but none that ends before the server could answer: garbage collection may pause everything for 2 s."""

TIMED = dataclasses.replace(QUICK, request=0.4)
PROMPT = [5]
BODY = body_of("tiny", PROMPT, n=1, max_tokens=2, seed=0)


def read(answer):
    return choices_of(answer, PROMPT, 1)[0]["token_ids"]


def run(urls, work, patience=QUICK):
    async def main():
        async with Pool(dict.fromkeys(urls, ServerKey()), "tiny", patience) as pool:
            return await work(pool)

    return asyncio.run(main())


def ask(pool, **options):
    return pool.ask(COMPLETIONS, BODY, read, **options)


def check(pool):
    return pool.check(COMPLETIONS, BODY, read)


def many(count):
    return lambda pool: asyncio.gather(*(ask(pool) for _ in range(count)))


def dead_url():
    """Return the URL of a server that has ended."""
    with serving(CompletionServer()) as server:
        pass
    return server.url


@pytest.fixture
def server():
    with serving(CompletionServer()) as server:
        yield server


@pytest.fixture
def two():
    with serving(CompletionServer(delay=0.01), CompletionServer(delay=0.01)) as servers:
        yield servers


def test_requests_are_spread_over_endpoints(two):
    run([one.url for one in two], many(40))
    assert [len(one.bodies) for one in two] == [20, 20]


def test_a_slow_endpoint_gets_fewer(two):
    two[0].delay = 0.2

    async def work(pool):
        waiting = [None] * 40

        async def worker():
            while waiting:
                waiting.pop()
                await ask(pool)

        await asyncio.gather(*(worker() for _ in range(4)))

    run([one.url for one in two], work)
    assert len(two[0].bodies) < 10 < 30 < len(two[1].bodies)


@pytest.mark.parametrize("fault", [status(500), status(408), status(429), hang, cut, truncated])
def test_a_fault_that_passes_is_not_noticed(server, fault):
    server.faults.extend([fault, fault])
    assert len(run([server.url], ask, TIMED if fault is hang else QUICK)) == 2
    assert server.faults == deque()


@pytest.mark.parametrize("fault", [status(500), cut, truncated])
def test_a_request_that_always_fails_is_given_up(server, fault):
    """The endpoint is taken out after three failures, and works again each time it is asked."""
    server.fault = fault
    with refused(RefusedRequestError, server.url, 4):
        run([server.url], ask)
    assert len(server.bodies) == 4


def test_a_request_that_always_times_out_is_given_up(server):
    server.fault = hang
    with refused(RefusedRequestError, server.url, 4, 0.4):
        run([server.url], ask, TIMED)


@pytest.mark.parametrize("code", [400, 404, 422])
def test_a_refusal_is_not_tried_again(server, code):
    server.fault = status(code)
    with refused(RefusedRequestError, server.url, code):
        run([server.url], ask)
    assert len(server.bodies) == 1


def test_a_malformed_answer_is_not_tried_again(server):
    server.fault = changed(lambda answer: answer.pop("choices"))
    with refused(MalformedAnswerError, server.url, "`choices`"):
        run([server.url], ask)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(server, code):
    server.faults.append(status(code, Retry_After="60"))
    began = time.monotonic()
    run([server.url], ask, Patience(longest=0.3, first=0.001))
    assert 0.3 <= time.monotonic() - began < 10


def test_requests_go_elsewhere_while_an_endpoint_is_busy(two):
    two[0].fault = status(429, Retry_After="30")
    began = time.monotonic()
    run([one.url for one in two], many(20), Patience(first=0.001))
    assert time.monotonic() - began < 5
    assert len(two[1].bodies) == 20


def test_being_busy_does_not_use_up_attempts(server):
    server.faults.extend([status(429)] * 12)
    run([server.url], ask)
    assert len(server.bodies) == 13


def test_a_server_that_is_always_busy_is_given_up(server):
    server.fault = status(429, {"message": "quota 77"})
    with refused(RefusedRequestError, 429, "quota 77") as error:
        run([server.url], ask, Patience(request=0.1, gone=0.1, first=0.005, longest=0.02))
    assert error.value.status == 429


def test_requests_of_an_endpoint_that_dies_go_elsewhere(two, caplog):
    two[0].delay = two[1].delay = 0.1
    kill = threading.Timer(0.05, two[0].stop)
    kill.start()
    found = run([one.url for one in two], many(30))
    kill.join()
    assert len(found) == 30
    logged(caplog, two[0].url)


def test_an_endpoint_that_comes_back_is_used_again(two, caplog):
    dead, other = two
    dead.stop()

    async def work(pool):
        await asyncio.gather(*(ask(pool) for _ in range(10)))
        assert [one.is_out for one in pool.endpoints] == [True, False]
        dead.start()
        while pool.endpoints[0].is_out:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(ask(pool) for _ in range(10)))

    run([dead.url, other.url], work)
    assert len(dead.bodies) == 5


@pytest.mark.parametrize("change", [{"model": "another"}, {"is_healthy": False}])
def test_an_endpoint_that_comes_back_as_another_stays_out(two, change):
    dead, other = two
    dead.stop()

    async def work(pool):
        await asyncio.gather(*(ask(pool) for _ in range(10)))
        for name, value in change.items():
            setattr(dead, name, value)
        dead.start()
        for _ in range(3):
            pool.endpoints[0].last_failure = ""
            while not pool.endpoints[0].last_failure:
                await asyncio.sleep(0.01)
        await asyncio.gather(*(ask(pool) for _ in range(10)))

    run([dead.url, other.url], work)
    assert dead.bodies == []


def test_all_are_gone_names_each_with_its_failure():
    urls = [dead_url(), dead_url()]
    began = time.monotonic()
    with refused(NoEndpointError, *urls) as error:
        run(urls, ask, dataclasses.replace(QUICK, gone=0.4))
    assert error.value.failures.keys() == set(urls)
    assert 0.3 < time.monotonic() - began < 15


def test_a_server_that_is_restarted_in_time_is_waited_for(server):
    server.stop()
    again = threading.Timer(0.2, server.start)
    again.start()
    assert len(run([server.url], ask)) == 2
    again.join()


def test_an_endpoint_that_is_busy_is_not_gone(server):
    """It refuses a request for longer than `gone`, and works on another one."""
    server.delay = 0.1
    server.faults.extend([as_it_is, *[status(429, Retry_After="1")] * 5])
    patience = Patience(request=20, gone=0.1, first=0.001, longest=0.2)
    assert len(run([server.url], many(2), patience)) == 2


def test_the_time_without_endpoints_starts_when_the_last_is_taken_out(server):
    """A request that timed out was sent longer ago than `gone`."""
    server.faults.append(hang)
    assert len(run([server.url], ask, dataclasses.replace(TIMED, request=1.0, failures=1, gone=0.9))) == 2


def test_one_endpoint_can_be_asked(two):
    run([one.url for one in two], lambda pool: asyncio.gather(*(ask(pool, at=[two[1].url]) for _ in range(5))))
    assert [len(one.bodies) for one in two] == [0, 5]


def test_a_check_describes_the_model_and_tries_it(two):
    found = run([one.url for one in two], check)
    assert [(one.url, one.name, one.max_length) for one in found] == [(one.url, "tiny", 64) for one in two]
    assert [len(one.bodies) for one in two] == [1, 1]


def test_a_check_waits_for_a_server_that_is_busy(server):
    server.faults.extend([status(429)] * 2)
    assert len(run([server.url], check)) == 1


def test_a_check_refuses_another_model_and_names_it(two):
    two[1].model = "llama"
    with refused(MissingModelError, two[1].url, "'tiny'", "'llama'") as error:
        run([one.url for one in two], check)
    assert error.value.served == ["llama"]


def test_a_check_refuses_a_server_without_token_ids(server):
    server.fault = changed(lambda answer: answer["choices"][0].pop("token_ids"))
    with refused(MalformedAnswerError, server.url, "`return_token_ids`"):
        run([server.url], check)


def test_a_check_goes_on_without_a_dead_endpoint(server, caplog):
    dead = dead_url()
    found = run([dead, server.url], check)
    assert [one.url for one in found] == [server.url]
    logged(caplog, dead)


def test_a_check_of_dead_endpoints_does_not_wait():
    dead = dead_url()
    with refused(NoEndpointError, dead):
        run([dead], check, Patience())


def test_a_pool_leaves_no_task_or_connection(two):
    two[0].stop()

    async def main():
        async with Pool({one.url: ServerKey() for one in two}, "tiny", QUICK) as pool:
            await asyncio.gather(*(ask(pool) for _ in range(10)))
        await asyncio.sleep(0)
        assert pool._session.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_cancelled_request_is_cancelled_at_the_server(server):
    server.fault = hang

    async def work(pool):
        task = asyncio.ensure_future(ask(pool))
        while not server.bodies:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.endpoints[0].busy == 0

    run([server.url], work, Patience())
    until(lambda: server.cancelled == 1)


def test_a_url_that_is_given_twice_is_one_endpoint(server):
    async def work(pool):
        return len(pool.endpoints)

    assert run([server.url, server.url], work) == 1
    assert json.loads(BODY)["model"] == "tiny"
