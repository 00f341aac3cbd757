"""Several servers with the same model: requests go to the least busy one, and elsewhere when one fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import aiohttp

from ...counts import counted
from .address import ServerKey
from .endpoint import Endpoint, ServedModel
from .failures import (
    CompletionsError,
    CutAnswerError,
    MalformedAnswerError,
    NoEndpointError,
    PassingFailureError,
    RefusedRequestError,
)
from .waiting import Patience

Answer = TypeVar("Answer")

Proof = Callable[[Endpoint], Awaitable[None]]
"""A function that raises a [`CompletionsError`] unless an endpoint that answers again still serves the same."""

_KEEP_ALIVE = 3.0
"""Seconds for which an idle connection is kept: less than vLLM's 5, so that none is used that the server is closing."""

logger = logging.getLogger(__name__)


class Pool:
    """Servers that have the same model. An asynchronous context manager, used within one event loop.

    An endpoint that fails several times in a row is taken out: its requests go elsewhere, and it is asked again later, until
    it works and names the model. One that asks to wait (`Retry-After`) is paused.

    Args:
        keys: the key that is sent to each server, by its URL as [`base_url`] returns it.
        model: name of the model that all of them serve.
        patience: time-outs, retries, and when to give up.
        proof: function that is called with an endpoint that was taken out, before it is used again.
        chance: source of randomness of the backoff.
    """

    def __init__(
        self,
        keys: Mapping[str, ServerKey],
        model: str,
        patience: Patience,
        *,
        proof: Proof | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.model, self.patience, self._proof = model, patience, proof
        self.endpoints: list[Endpoint] = []
        self._keys = dict(keys)
        self._chance = chance or random.Random()
        self._probes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Pool:
        self._changed = asyncio.Event()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.endpoints = [
            Endpoint(url, self._session, key, self.patience, alive_at=time.monotonic())
            for url, key in self._keys.items()
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._session.close()

    async def check(self, path: str, body: bytes, read: Callable[[bytes], object]) -> list[ServedModel]:
        """Ask every endpoint whether it works and serves the model, and try it. Those that don't answer are taken out.

        Args:
            path: path of a trial request, from `/v1` on.
            body: JSON of the trial request.
            read: function that reads its answer.

        Returns:
            The model, as the endpoints that answer describe it.

        Raises:
            MissingModelError: if one serves other models only.
            RefusedRequestError, MalformedAnswerError: if one is not a server of this kind, refuses the key, or fails at the
                trial request.
            NoEndpointError: if none answers.
        """

        async def tried(endpoint: Endpoint) -> ServedModel:
            served = await endpoint.check(self.model)
            await self.ask(path, body, read, at=[endpoint.url])
            return served

        outcomes = await asyncio.gather(*map(tried, self.endpoints), return_exceptions=True)
        for endpoint, outcome in zip(self.endpoints, outcomes, strict=True):
            if isinstance(outcome, PassingFailureError):
                endpoint.last_failure = str(outcome)
            elif isinstance(outcome, BaseException):
                raise _located(endpoint, outcome)
        served = [outcome for outcome in outcomes if isinstance(outcome, ServedModel)]
        if not served:
            raise self._gone(self.endpoints)
        for endpoint, outcome in zip(self.endpoints, outcomes, strict=True):
            if isinstance(outcome, PassingFailureError):
                self._take_out(endpoint)
        return served

    async def available(self) -> tuple[dict[str, list[ServedModel]], dict[str, str]]:
        """Ask every endpoint, once, whether it works and which models it has.

        Returns:
            By URL, the models of those that answer, and the failures of the others.

        Raises:
            RefusedRequestError, MalformedAnswerError: if one is not a server of this kind, or refuses the key.
        """
        outcomes = await asyncio.gather(*(one.available() for one in self.endpoints), return_exceptions=True)
        served: dict[str, list[ServedModel]] = {}
        failures: dict[str, str] = {}
        for endpoint, outcome in zip(self.endpoints, outcomes, strict=True):
            if isinstance(outcome, PassingFailureError):
                failures[endpoint.url] = str(outcome)
            elif isinstance(outcome, BaseException):
                raise _located(endpoint, outcome)
            else:
                served[endpoint.url] = outcome
        return served, failures

    async def ask(
        self, path: str, body: bytes | None, read: Callable[[bytes], Answer], *, at: Iterable[str] | None = None
    ) -> Answer:
        """Send a request until it is answered, and return its answer.

        Args:
            path: path of the request.
            body: JSON of the request; None: a GET without a body.
            read: function that reads the answer; a [`CutAnswerError`] counts as a failure that may pass.
            at: URLs of the endpoints that may be asked; None: all.

        Raises:
            RefusedRequestError: if a server refuses the request, or too many attempts have failed.
            MalformedAnswerError: if an answer can't be read.
            NoEndpointError: if no endpoint can be used for too long.
        """
        urls = set(self._keys if at is None else at)
        among = [one for one in self.endpoints if one.url in urls]
        failed, tries, avoided, busy_since = 0, 0, None, math.inf
        while True:
            endpoint = await self._choose(among, avoided)
            endpoint.busy += 1
            try:
                answer = read(await endpoint.ask(path, body))
            except PassingFailureError as error:
                failure = error
            except CutAnswerError as error:
                failure = PassingFailureError(str(error), status=200)
            except CompletionsError as error:
                raise _located(endpoint, error) from None
            else:
                self._answered(endpoint)
                return answer
            finally:
                endpoint.busy -= 1
            tries, avoided = tries + 1, endpoint
            failed += failure.reached and not failure.is_busy
            self._failed(endpoint, failure)
            busy_since = min(busy_since, time.monotonic()) if failure.is_busy else math.inf
            # Whatever a server has accepted is answered, or has timed out, within `request`.
            waited = time.monotonic() - max(busy_since, *(one.answered_at for one in among))
            if failed >= self.patience.attempts or waited > self.patience.request + self.patience.gone:
                raise RefusedRequestError(
                    f"{counted(tries, 'attempt')} of a request failed, the last one at {endpoint.url}: {failure}",
                    failure.status,
                )
            await asyncio.sleep(self.patience.backoff(tries, self._chance))

    async def _choose(self, among: Sequence[Endpoint], avoided: Endpoint | None) -> Endpoint:
        """Wait until one of these endpoints can be used, and return the least busy one."""
        while True:
            now = time.monotonic()
            ready = [one for one in among if not one.is_out and one.paused_until <= now]
            for one in among:
                if not one.is_out:  # also if it is paused
                    one.alive_at = now
            if ready:
                # The one that has just failed comes last.
                return min(ready, key=lambda one: (one is avoided, one.busy))
            given_up = max((one.alive_at for one in among), default=now) + self.patience.gone
            if now >= given_up:
                raise self._gone(among)
            paused = [one.paused_until for one in among if not one.is_out]
            # Requests that wait for the same endpoint don't return to it all at once.
            wait = min([given_up, *paused]) - now + self._chance.uniform(0.0, self.patience.first)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)

    def _answered(self, endpoint: Endpoint) -> None:
        endpoint.failures = 0
        endpoint.alive_at = endpoint.answered_at = time.monotonic()

    def _failed(self, endpoint: Endpoint, failure: PassingFailureError) -> None:
        """Note a failure of an endpoint: pause it if it asks for that, and take it out if it has failed too often."""
        endpoint.last_failure = str(failure)
        if failure.retry_after is not None:
            until = time.monotonic() + min(failure.retry_after, self.patience.longest)
            endpoint.paused_until = max(endpoint.paused_until, until)
        if not failure.is_busy:
            endpoint.failures += 1
            if endpoint.failures >= self.patience.failures and not endpoint.is_out:
                self._take_out(endpoint)

    def _take_out(self, endpoint: Endpoint) -> None:
        # The time without endpoints starts now, not when the request that timed out was sent.
        endpoint.is_out, endpoint.alive_at = True, time.monotonic()
        logger.warning("%s was taken out: %s. It is asked again later.", endpoint.url, endpoint.last_failure)
        probe = asyncio.get_running_loop().create_task(self._readmit(endpoint))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _readmit(self, endpoint: Endpoint) -> None:
        """Ask an endpoint that was taken out until it works and names the model, and use it again."""
        attempt = 0
        while endpoint.is_out:
            attempt += 1
            await asyncio.sleep(self.patience.probing(attempt, self._chance))
            try:
                await endpoint.check(self.model)
                if self._proof is not None:
                    await self._proof(endpoint)
            except CompletionsError as error:
                endpoint.last_failure = str(error)
            else:
                # One more failure takes it out again.
                endpoint.is_out, endpoint.failures = False, self.patience.failures - 1
                endpoint.paused_until, endpoint.alive_at = time.monotonic(), time.monotonic()
                logger.warning("%s answers again.", endpoint.url)
                self._changed.set()
                self._changed = asyncio.Event()

    def _gone(self, among: Sequence[Endpoint]) -> NoEndpointError:
        failures = {one.url: one.last_failure for one in among}
        lines = "".join(f"\n- {url}: {failure}" for url, failure in failures.items())
        return NoEndpointError(f"No endpoint can be used:{lines}", failures)


def _located(endpoint: Endpoint, error: BaseException) -> BaseException:
    """Return an error about an answer with the endpoint's URL in its message."""
    if isinstance(error, MalformedAnswerError):
        return type(error)(f"{endpoint.url} can't be used: {error}.")
    return error
