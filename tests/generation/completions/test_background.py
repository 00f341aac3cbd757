"""Work in a thread: bounded, in the order in which it finishes, and with nothing left behind."""

import asyncio
import contextlib
import os
import signal
import threading
import time

import pytest

from completion_server import until
from spin_trl.generation.completions.background import finished


class Work:
    """Work that sleeps for as long as an item says; a negative item fails."""

    def __init__(self):
        self.busy = self.most = self.cancelled = self.done = self.entered = self.left = 0

    @contextlib.asynccontextmanager
    async def start(self):
        self.entered += 1
        try:
            yield self.work
        finally:
            self.left += 1

    async def work(self, item):
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(abs(item))
            if item < 0:
                raise KeyError(item)
            self.done += 1
            return item
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.busy -= 1

    def __call__(self, items, concurrency=4, ahead=2, grace=5.0):
        return finished(items, self.start, concurrency=concurrency, ahead=ahead, grace=grace)


@pytest.fixture
def work():
    made = Work()
    yield made
    assert made.entered == made.left
    assert made.busy == 0
    until(lambda: not any(thread.name == "spin-trl completions" for thread in threading.enumerate()))


def test_results_come_as_they_are_finished(work):
    assert list(work([0.2, 0.001, 0.1])) == [0.001, 0.1, 0.2]


def test_all_items_are_worked_on_and_few_at_a_time(work):
    assert sorted(work([0.001 * (place % 3) for place in range(100)])) == sorted(
        0.001 * (place % 3) for place in range(100)
    )
    assert work.most == 4


@pytest.mark.parametrize("items", [[], iter(())])
def test_nothing_is_worked_on_at_once(work, items):
    assert list(work(items)) == []


def test_items_are_taken_as_they_are_needed(work):
    taken = 0

    def items():
        nonlocal taken
        for _ in range(50):
            taken += 1
            yield 0.001

    results = work(items())
    for count, _ in enumerate(results, start=1):
        assert taken <= count + 4 + 2
    assert taken == 50


def test_items_are_taken_in_the_callers_thread(work):
    threads = set()

    def items():
        for _ in range(20):
            threads.add(threading.current_thread())
            yield 0.001

    list(work(items()))
    assert threads == {threading.current_thread()}


def test_a_slow_consumer_leaves_work_in_progress_but_not_more(work):
    results = work([0.001] * 40)
    for _ in range(10):
        next(results)
    until(lambda: work.done == 15)
    time.sleep(0.05)
    assert work.done == 15  # those yielded, concurrency and ahead, without the one that was last yielded
    assert len(list(results)) == 30


def test_work_goes_on_while_results_are_taken(work):
    """Results that wait for the consumer don't keep items from being taken."""
    results = work([0.0] * 100, concurrency=4, ahead=4)
    for _ in range(50):
        done = work.done
        next(results)
        until(lambda seen=done: work.done > seen or work.done == 100)


def test_a_slow_source_does_not_hold_results_back(work):
    released = threading.Event()

    def items():
        yield 0.0
        until(lambda: work.done == 1)
        yield 0.01
        assert released.is_set()
        yield 0.0

    results = work(items())
    next(results)
    released.set()
    assert len(list(results)) == 2


def results_and_error(results):
    """Return the results before an error, and the error."""
    found = []
    try:
        for one in results:
            found.append(one)
    except KeyError as error:
        return found, error
    return found, None


def test_what_is_finished_and_in_progress_is_yielded_before_a_failure(work):
    found, error = results_and_error(work([0.15, 0.1, -0.05, 0.0, 0.0, 0.0]))
    assert isinstance(error, KeyError)
    assert {0.15, 0.1} <= set(found)
    assert len(found) == work.done


def test_no_work_starts_after_a_failure(work):
    found, error = results_and_error(work([0.3, -0.05, *[0.1] * 10], concurrency=2, ahead=20))
    assert isinstance(error, KeyError)
    assert found == [0.3]
    assert work.done == 1


def test_work_that_does_not_end_after_a_failure_is_cancelled(work):
    with pytest.raises(KeyError):
        list(work([-0.01, 60], grace=0.05))
    assert work.cancelled == 1


def test_an_error_of_the_source_comes_after_what_is_finished(work):
    def items():
        yield 0.0
        yield 60
        until(lambda: work.done == 1 and work.busy == 1)
        raise OSError("the disk")

    results = work(items())
    assert next(results) == 0.0
    with pytest.raises(OSError):
        next(results)
    assert work.cancelled == 1


def test_an_error_at_the_start_is_raised():
    @contextlib.asynccontextmanager
    async def start():
        raise OSError("no")
        yield

    with pytest.raises(OSError):
        list(finished([1], start, concurrency=1, ahead=1, grace=1))


def test_closing_cancels(work):
    results = work([60, 60, 0.0])
    next(results)
    results.close()
    assert work.cancelled == 2


def test_an_interrupt_while_waiting_cancels(work):
    results = work([60, 60, 0.0])
    next(results)
    interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    interrupt.join()
    assert work.cancelled == 2


def test_a_generator_that_was_never_started_leaves_nothing(work):
    work([1, 2]).close()
    assert work.entered == 0


def test_it_works_where_an_event_loop_is_running(work):
    async def main():
        return list(work([0.0]))

    assert asyncio.run(main()) == [0.0]
