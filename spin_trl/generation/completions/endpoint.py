"""One server: a request with its limits, what its status codes mean, and whether the server can be used at the moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ...files import parse_json
from .address import ServerKey
from .failures import (
    CompletionsError,
    MalformedAnswerError,
    MissingModelError,
    PassingFailureError,
    RefusedRequestError,
)
from .waiting import Patience, retry_after

MODELS = "/v1/models"
_HEALTH = "/health"
_LARGEST_REFUSAL = 2**16
_MOST_NAMES = 20
_TEXT_OF_ERROR = ("message", "detail", "error")


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has, as `/v1/models` describes it.

    Attributes:
        url: URL of the server.
        name: name of the model, as requests name it.
        root: path or repository of its weights, as far as the server says.
        max_length: maximum tokens of a prompt and its response together, as far as the server says.
        parent: name of the base model of an adapter; None for other models, and if the server does not say.
    """

    url: str
    name: str
    root: str | None
    max_length: int | None
    parent: str | None = None


@dataclass(eq=False)
class Endpoint:
    """A server, and whether it can be used at the moment.

    Attributes:
        url: URL of the server, without `/v1`.
        session: session of HTTP.
        key: key that is sent with every request, and is removed from everything that the server answers.
        patience: time-outs and limits.
        busy: requests that it works on.
        failures: failures in a row.
        is_out: whether it was taken out, until it answers again.
        paused_until: time until which it asked not to be used.
        alive_at: last time at which it could be used.
        answered_at: last time at which it answered a request.
        last_failure: description of its last failure.
    """

    url: str
    session: aiohttp.ClientSession
    key: ServerKey
    patience: Patience
    busy: int = 0
    failures: int = 0
    is_out: bool = False
    paused_until: float = -math.inf
    alive_at: float = -math.inf
    answered_at: float = -math.inf
    last_failure: str = "not asked yet"
    _timeout: aiohttp.ClientTimeout = field(init=False)

    def __post_init__(self) -> None:
        self._timeout = aiohttp.ClientTimeout(total=self.patience.request, connect=self.patience.connect)

    async def ask(self, path: str, body: bytes | None = None, *, timeout: float | None = None) -> bytes:
        """Return the answer to one request: a POST of JSON, or a GET without a body.

        Args:
            path: path of the request, from `/v1` on.
            body: the JSON.
            timeout: maximum time in seconds; None: the one of all requests.

        Raises:
            PassingFailureError: if there is no whole answer, or the server asks for another attempt.
            RefusedRequestError: if the server refuses the request.
            MalformedAnswerError: if the answer is larger than the limit.
        """
        failure: CompletionsError
        try:
            async with self.session.request(
                "GET" if body is None else "POST",
                self.url + path,
                data=body,
                headers={**self.key.headers(), **({"Content-Type": "application/json"} if body is not None else {})},
                timeout=self._timeout if timeout is None else aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,  # a redirect could lead to a host that must not see the key
            ) as response:
                if response.status == 200:
                    return await self._body(response, self.patience.largest_answer)
                failure = self._refusal(response, await self._start(response))
        except aiohttp.ConnectionTimeoutError:
            failure = PassingFailureError(f"no connection within {self.patience.connect:g} s", reached=False)
        except TimeoutError:
            failure = PassingFailureError(f"no answer within {timeout or self.patience.request:g} s")
        except aiohttp.ClientConnectorError as error:
            failure = PassingFailureError(f"no connection ({self.key.quoted(str(error.os_error))})", reached=False)
        except (aiohttp.ClientError, OSError) as error:
            text = self.key.quoted(str(error))
            failure = PassingFailureError(f"the connection was cut ({text or type(error).__name__})")
        # Raised here, so that no exception of aiohttp, which has the headers of the request, is its context.
        raise failure

    async def models(self) -> list[ServedModel]:
        """Return the models that the server has.

        Raises:
            PassingFailureError, RefusedRequestError, MalformedAnswerError: as for any request.
        """
        answer = await self.ask(MODELS, timeout=self.patience.connect)
        try:
            found = parse_json(answer)
        except ValueError:
            found = None
        entries = found.get("data") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise MalformedAnswerError(f"`{MODELS}` does not list models, as a server with OpenAI's interface does")
        return [
            _model(self.url, entry)
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def available(self) -> list[ServedModel]:
        """Return the models that the server has, after checking that it works.

        Raises:
            PassingFailureError, RefusedRequestError, MalformedAnswerError: as for any request.
        """
        try:
            await self.ask(_HEALTH, timeout=self.patience.connect)
        except RefusedRequestError as error:
            if error.status not in (404, 405):  # not every server has this path
                raise
        return await self.models()

    async def check(self, model: str) -> ServedModel:
        """Return the description of a model, after checking that the server works and has it.

        Raises:
            MissingModelError: if the server does not have the model; the message names those that it has.
            PassingFailureError, RefusedRequestError, MalformedAnswerError: as for any request.
        """
        served = await self.available()
        for found in served:
            if found.name == model:
                return found
        names = [self.key.quoted(found.name) for found in served]
        shown = ", ".join(repr(name) for name in names[:_MOST_NAMES]) or "none"
        more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise MissingModelError(f"{self.url} does not serve {model!r}. Its models: {shown}{more}.", names)

    async def _body(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > most:
                raise MalformedAnswerError(f"the answer is larger than {most} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _start(self, response: aiohttp.ClientResponse) -> str:
        """Return the start of the body of a refusal, as far as it can be had."""
        start = b""
        try:
            async for part in response.content.iter_any():
                start += part
                if len(start) >= _LARGEST_REFUSAL:
                    break
        except (aiohttp.ClientError, OSError):  # the status was received, which is what counts
            pass
        return start[:_LARGEST_REFUSAL].decode("utf-8", errors="replace")

    def _refusal(self, response: aiohttp.ClientResponse, body: str) -> CompletionsError:
        """Return what a status other than 200 means for the request."""
        status = response.status
        text = self.key.quoted(_message_of_refusal(body))
        what = f"HTTP status {status}" + (f": {text}" if text else "")
        if status == 429 or status == 408 or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            # With a time to come back at, 503 means the same as 429.
            return PassingFailureError(
                what, status=status, is_busy=status == 429 or (status == 503 and wait is not None), retry_after=wait
            )
        if 300 <= status < 400:
            what += f" (redirects to {self.key.quoted(response.headers.get('Location', ''))!r}, which is not followed)"
        return RefusedRequestError(f"{self.url} refused the request: {what}", status)


def _model(url: str, entry: dict[str, Any]) -> ServedModel:
    root, length, parent = entry.get("root"), entry.get("max_model_len"), entry.get("parent")
    return ServedModel(
        url,
        entry["id"],
        root if isinstance(root, str) else None,
        length if type(length) is int else None,
        parent if isinstance(parent, str) else None,
    )


def _message_of_refusal(body: str) -> str:
    """Return the message in the body of a refusal: `{"error": {"message": ...}}`, `{"detail": ...}`, or the text itself."""
    try:
        found = parse_json(body)
    except ValueError:
        return body
    for _ in range(3):
        if not isinstance(found, dict):
            break
        found = next((found[name] for name in _TEXT_OF_ERROR if found.get(name)), None)
    return found if isinstance(found, str) else body
