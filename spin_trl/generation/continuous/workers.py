"""The engine that generates by continuous batching in processes of its own, one per GPU, which end when it is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from ...errors import LaunchError, SpinError, visible
from ...files import parse_json
from ..engine import FinishedBatches, MicroBatch, Response, Sampling, UnansweredError
from ..vllm.environment import without_launch
from .worker import Job, job_message

AHEAD = 32
"""Responses that a worker is asked for beyond those in progress, so that it never waits."""

SECONDS_FOR_WORKER = 5.0
"""Seconds that a worker gets to end by itself."""

_TAIL = 3000
"""Bytes of a worker's output that an error shows."""


class Worker:
    """A process that generates.

    Args:
        job: what it generates with.
        number: its number, which comes with its messages.
        messages: queue that its messages are put into, with its number; None when it has ended.
        devices: value of `CUDA_VISIBLE_DEVICES`; None: that of this process.

    Attributes:
        pending: prompts of the micro-batches that it has not answered, by their numbers.
    """

    def __init__(
        self, job: Job, number: int, messages: queue.SimpleQueue[tuple[int, Any]], devices: str | None = None
    ) -> None:
        self.job, self.number, self._messages = job, number, messages
        self.pending: dict[int, int] = {}
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._process = subprocess.Popen(
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env={**without_launch(os.environ), **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})},
            start_new_session=True,  # an interrupt in the terminal is for the run, which then ends this process
        )
        self._reader = threading.Thread(target=self._read, name="spin-trl continuous", daemon=True)
        self._reader.start()
        self.send(job_message(job))

    @property
    def load(self) -> int:
        """Number of responses that it has been asked for and not given."""
        return sum(self.pending.values())

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. If the process has ended, that is told by its last message."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def ask(self, batch: MicroBatch) -> None:
        """Ask for the responses to a micro-batch."""
        self.pending[batch.number] = len(batch.prompts)
        self.send({"number": batch.number, "prompts": [list(prompt) for prompt in batch.prompts], "seed": batch.seed})

    def output(self) -> str:
        """Return the end of what the process has printed."""
        end = os.fstat(self._output.fileno()).st_size
        found = os.pread(self._output.fileno(), _TAIL, max(end - _TAIL, 0))
        return visible(found.decode(errors="replace")).strip()

    def end(self) -> None:
        """End the process and wait until it is gone."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_FOR_WORKER if not self.pending else 0.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._output.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as source:
            for line in source:
                self._messages.put((self.number, parse_json(line)))
        self._messages.put((self.number, None))


def _command() -> list[str]:
    # A checkout that is not installed is found in the current folder only.
    is_safe = Path(__file__).parents[3] != Path.cwd()
    return [sys.executable, *(["-P"] if is_safe else []), "-m", __name__.rpartition(".")[0]]


class ContinuousWorkers:
    """Generates with worker processes, the least busy first (see [`Engine`]).

    Args:
        jobs: a job for each worker, with the value of its `CUDA_VISIBLE_DEVICES`.

    Raises:
        LaunchError: if a worker can't load the model; the message has its reason.
    """

    name = "transformers"
    version: str = transformers.__version__
    repeats = False

    def __init__(self, jobs: Sequence[tuple[Job, str | None]]) -> None:
        self._messages: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        try:
            for number, (job, devices) in enumerate(jobs):
                self._workers.append(Worker(job, number, self._messages, devices))
            self._wait_until_ready()
        except BaseException:
            self.end()
            raise

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample the responses to each prompt, in any order. If this is left early, the workers are ended.

        Raises:
            UnansweredError: if a request fails, after everything that was finished has been yielded.
            LaunchError: if a worker has ended; the message has the end of its output.
        """
        if not self._workers:
            raise LaunchError("The processes of continuous batching have ended. Run the same command to resume.")
        is_whole = False
        try:
            yield from self._answered(iter(batches), sampling)
            is_whole = True
        finally:
            if not is_whole:
                self.end()

    def end(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().end()

    def _answered(self, batches: Iterator[MicroBatch], sampling: Sampling) -> FinishedBatches:
        for worker in self._workers:
            worker.send({"sampling": dataclasses.asdict(sampling)})
        failure: SpinError | None = None
        numbers: list[int] = []
        more, working = True, {worker.number for worker in self._workers}
        while working:
            while more and (free := self._least_busy(working)) is not None:
                batch = next(batches, None) if failure is None else None
                if batch is not None:
                    free.ask(batch)
                    continue
                more = False
                for number in working:
                    self._workers[number].send({"end": True})
            number, message = self._messages.get()
            worker = self._workers[number]
            if message is None or "error" in message:
                working.discard(number)
                failure = failure or self._failure(worker, message)
                numbers += worker.pending
                worker.pending.clear()
            elif "done" in message:
                working.discard(number)
            else:
                del worker.pending[message["number"]]
                yield message["number"], [Response(ids, reason) for ids, reason in message["responses"]]
        if failure is not None:
            raise UnansweredError(str(failure), numbers) if numbers else failure

    def _least_busy(self, working: set[int]) -> Worker | None:
        """Return the worker with the least to do; None if all have enough."""
        worker = min((self._workers[number] for number in working), key=lambda one: one.load, default=None)
        return worker if worker is not None and worker.load < worker.job.at_once + AHEAD else None

    def _wait_until_ready(self) -> None:
        ready: set[int] = set()
        while len(ready) < len(self._workers):
            number, message = self._messages.get()
            if message is None or "error" in message:
                raise self._failure(self._workers[number], message)
            ready.add(number)

    def _failure(self, worker: Worker, message: dict[str, Any] | None) -> SpinError:
        if message is not None:
            return LaunchError(f"Continuous batching failed: {message['error']}")
        said = worker.output()
        return LaunchError(
            "A process of continuous batching ended by itself."
            + (f" Its last output:\n{said}" if said else " It has printed nothing.")
        )


@contextlib.contextmanager
def continuous_workers(jobs: Sequence[tuple[Job, str | None]]) -> Iterator[ContinuousWorkers]:
    """Give workers that have loaded their model, and end them. The arguments are those of [`ContinuousWorkers`]."""
    workers = ContinuousWorkers(jobs)
    try:
        yield workers
    finally:
        workers.end()
