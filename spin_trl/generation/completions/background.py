"""Asynchronous work in a separate thread, for code that is not asynchronous: items in, results out as they are finished."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")
WorkOn = Callable[[Input], Awaitable[Result]]


def finished(
    items: Iterable[Input],
    start: Callable[[], AbstractAsyncContextManager[WorkOn[Input, Result]]],
    *,
    concurrency: int,
    ahead: int,
    grace: float,
) -> Generator[Result, None, None]:
    """Work on items at the same time, and yield results as they are finished.

    Items are taken in the caller's thread, and at most `concurrency + ahead` of them whose results have not been yielded, so
    a slow consumer slows the work down. Closing the generator early, and an interrupt, cancel what is in progress.

    Args:
        items: the work.
        start: returns a context manager that is entered in the thread and gives the function that works on one item.
        concurrency: maximum items in progress.
        ahead: further items that are taken, so that there is work while the consumer is busy.
        grace: seconds for which items in progress may still finish after another one has failed.

    Raises:
        BaseException: the first error of the work, or of `items`, after everything that was finished has been yielded.
    """
    iterator, pending, error, more = iter(items), 0, None, True
    background: Background[Input, Result] = Background(start, concurrency, grace)
    try:
        background.start()
        while more or pending:
            # Results don't wait for items, but each lets two be taken: a burst of results must not leave the thread idle.
            taken = 0
            while more and pending < concurrency + ahead and (taken < 2 or not background.has_results()):
                try:
                    item = next(iterator)
                except StopIteration:
                    more = False
                except Exception as raised:
                    more, error = False, raised
                else:
                    background.put(item)
                    pending, taken = pending + 1, taken + 1
            if error is not None and not background.has_results():
                raise error
            if pending:
                result = background.get()
                pending -= 1
                yield result
    finally:
        background.close()


class Background(Generic[Input, Result]):
    """A thread with an event loop that works on items.

    Args:
        start: returns the context of the work, as in [`finished`].
        concurrency: maximum items in progress.
        grace: seconds for which items in progress may still finish after another one has failed.
    """

    def __init__(
        self, start: Callable[[], AbstractAsyncContextManager[WorkOn[Input, Result]]], concurrency: int, grace: float
    ) -> None:
        self._enter, self._concurrency, self._grace = start, concurrency, grace
        self._results: queue.SimpleQueue[tuple[Result] | BaseException] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        # If the process ends without closing this, the thread must not keep it alive.
        self._thread = threading.Thread(target=self._run, name="spin-trl completions", daemon=True)
        self._waiting: deque[Input] = deque()
        self._tasks: set[asyncio.Task[Result]] = set()
        self._work: WorkOn[Input, Result] | None = None
        self._error: BaseException | None = None
        self._ended = asyncio.Event()  # closed by the caller, or an item has failed

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Input) -> None:
        """Hand over an item. Ignored after a failure, which `get` raises."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._add, item)

    def has_results(self) -> bool:
        """Return whether `get` would not wait."""
        return not self._results.empty()

    def get(self) -> Result:
        """Wait for the next result.

        Raises:
            BaseException: the first error of the work, when there are no more results.
        """
        found = self._results.get()
        if isinstance(found, BaseException):
            self._results.put(found)
            raise found
        return found[0]

    def close(self) -> None:
        """Cancel what is in progress, and return when the thread has ended."""
        self._grace = 0
        if self._thread.ident is None:
            self._loop.close()
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close)
        if threading.current_thread() is not self._thread:  # a generator may be collected in any thread
            self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as raised:
            error = raised
        self._results.put(self._error or error or RuntimeError("the work was closed"))

    async def _main(self) -> None:
        async with self._enter() as self._work:
            self._start_more()
            await self._ended.wait()
            if self._tasks and self._grace:
                self._ended.clear()
                idle = asyncio.ensure_future(self._idle())
                closed = asyncio.ensure_future(self._ended.wait())
                await asyncio.wait((idle, closed), timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
                for one in (idle, closed):
                    one.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _idle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _close(self) -> None:
        self._waiting.clear()
        self._error = self._error or RuntimeError("the work was closed")
        self._ended.set()

    def _add(self, item: Input) -> None:
        self._waiting.append(item)
        self._start_more()

    def _start_more(self) -> None:
        while self._work and self._waiting and len(self._tasks) < self._concurrency and self._error is None:
            task = asyncio.ensure_future(self._work(self._waiting.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Result]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._results.put((task.result(),))
            self._start_more()
        elif self._error is None:
            self._error = error
            self._ended.set()
