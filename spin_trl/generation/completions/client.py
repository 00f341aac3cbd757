"""Generation and scoring by servers of `/v1/completions`, for code that is not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import RecipeError, visible
from ...files import parse_json
from ..engine import FinishedBatches, MicroBatch, Response, Sampling
from .address import ServerKey, base_url, refuse_plain_http
from .background import Input, Result, finished
from .endpoint import Endpoint, ServedModel
from .failures import NoEndpointError, RefusedRequestError
from .pool import Pool
from .request import COMPLETIONS, body_of, choices_of, read_responses, request_body
from .scoring import response_logprobs
from .waiting import Patience
from .weights import Logprobs

VERSION = "/version"
"""Path at which vLLM reports its version."""

LOAD_ADAPTER = "/v1/load_lora_adapter"
"""Path of the request to load an adapter, which a server answers only if it was started with that allowed."""

UNLOAD_ADAPTER = "/v1/unload_lora_adapter"
"""Path of the request to unload an adapter."""


@dataclass(frozen=True)
class KnownResponses:
    """Responses whose log-probs tell whether a server that was away still has the same weights.

    Attributes:
        pairs: token ids of prompts and of their responses.
        check: function of the log-probs that the server's model gives to the responses; it raises a [`CompletionsError`] if
            the weights are others.
    """

    pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    check: Callable[[Logprobs], None]

    async def prove(self, model: str, endpoint: Endpoint) -> None:
        """Raise a [`CompletionsError`] unless an endpoint's model is still the same."""
        limit = asyncio.Semaphore(_SCORED_AT_ONCE)

        async def ask(body: bytes, read: Callable[[bytes], float]) -> float:
            return read(await endpoint.ask(COMPLETIONS, body))

        async def logprobs(prompt: Sequence[int], response: Sequence[int]) -> list[float]:
            async with limit:
                return await response_logprobs(ask, model, prompt, response)

        self.check(await asyncio.gather(*(logprobs(*pair) for pair in self.pairs)))


_SCORED_AT_ONCE = 8
"""Responses that an endpoint scores at the same time when it is proved."""


@dataclass(frozen=True)
class CompletionsClient:
    """A client of servers that serve the same model and return token ids.

    Every call has its own thread, event loop and connections, which end with it.

    Args:
        urls: URLs of the servers, with or without `/v1`.
        model: name of the model, as the servers know it.
        eos_token_ids: ids of all tokens that end a response.
        key: key that the servers ask for, or the key of each by its URL; it is never sent over plain HTTP to another
            machine, unless `allow_plain_http`.
        allow_plain_http: whether the key may be sent over plain HTTP to another machine.
        concurrency: maximum requests in progress at all servers together.
        ahead: further micro-batches that are taken, so that there is work while the consumer is busy.
        grace: seconds for which requests in progress may still be answered after another one has failed.
        patience: time-outs, retries, and when to give up.
        known: responses that are scored by a server that was away, before it is asked again; None: it only has to name the
            model.

    Raises:
        RecipeError: if a URL is not one of a server, a setting is out of range, or the key would be sent over plain HTTP.
    """

    urls: Sequence[str]
    model: str
    eos_token_ids: Sequence[int]
    key: ServerKey | Mapping[str, ServerKey] = field(default_factory=ServerKey)
    allow_plain_http: bool = False
    concurrency: int = 256
    ahead: int = 32
    grace: float = 60.0
    patience: Patience = field(default_factory=Patience)
    known: KnownResponses | None = None
    _keys: dict[str, ServerKey] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.urls:
            raise RecipeError("A client of servers needs the URL of at least one.")
        if self.concurrency < 1 or self.ahead < 0 or self.grace < 0:
            raise RecipeError(
                f"`concurrency` is {self.concurrency}, `ahead` is {self.ahead}, `grace` is {self.grace}: `concurrency` must "
                "be at least 1, and the others can't be negative."
            )
        if not self.eos_token_ids:
            raise RecipeError("`eos_token_ids` is empty: no token would end a response.")
        keys = self.key if isinstance(self.key, Mapping) else dict.fromkeys(self.urls, self.key)
        object.__setattr__(self, "_keys", {base_url(url): keys.get(url, ServerKey()) for url in self.urls})
        object.__setattr__(self, "urls", tuple(self._keys))
        for url, key in self._keys.items():
            refuse_plain_http(url, key, allow=self.allow_plain_http)

    def available(self) -> tuple[dict[str, list[ServedModel]], dict[str, str]]:
        """Ask every server, once, whether it works and which models it has.

        Returns:
            By URL, the models of the servers that answer, and the failures of the others.

        Raises:
            CompletionsError: if a server refuses the key, or is not a server of this kind.
        """

        def work(pool: Pool, _: None) -> Awaitable[tuple[dict[str, list[ServedModel]], dict[str, str]]]:
            return pool.available()

        [found] = self._finished([None], work)
        return found

    def check(self) -> list[ServedModel]:
        """Ask every server whether it works, serves the model and returns token ids, with a request for one token.

        Returns:
            The model, as each server that answers describes it.

        Raises:
            CompletionsError: if a server serves other models only, refuses the request or returns no token ids, or if no
                server answers.
        """
        prompt = [self.eos_token_ids[0]]
        settings = {"n": 1, "max_tokens": 1, "seed": 0, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
        body = body_of(self.model, prompt, **settings, stop_token_ids=list(self.eos_token_ids))

        def work(pool: Pool, _: None) -> Awaitable[list[ServedModel]]:
            return pool.check(COMPLETIONS, body, lambda answer: choices_of(answer, prompt, 1))

        [served] = self._finished([None], work)
        return served

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample responses: one request for each micro-batch, whose prompts are equal (see [`Engine`]).

        Micro-batches are taken as needed, in the caller's thread. Close the generator to cancel what is in progress.

        Args:
            batches: the work.
            sampling: settings of sampling.

        Yields:
            The number of a micro-batch and its responses, as they are finished.

        Raises:
            CompletionsError: if a request fails for good, after everything that was finished has been yielded.
            RecipeError: if vLLM would change the temperature.
        """

        async def work(pool: Pool, batch: MicroBatch) -> tuple[int, list[Response]]:
            body = request_body(self.model, batch, sampling, eos_token_ids)
            return batch.number, await pool.ask(
                COMPLETIONS, body, lambda answer: read_responses(answer, batch, sampling, eos_token_ids)
            )

        eos_token_ids = frozenset(self.eos_token_ids)
        return self._finished(batches, work)

    def score(self, url: str, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log-probs that one server's model gives to responses.

        Args:
            url: URL of the server, one of `urls`.
            pairs: token ids of prompts and of their responses.

        Returns:
            For each pair, the log-prob of each token of the response, given the prompt and the tokens before it.

        Raises:
            CompletionsError: if a request fails for good.
            ValueError: if `url` is not one of `urls`, or a prompt or response is empty.
        """
        at = base_url(url)
        if at not in self.urls:
            raise ValueError(f"{at} is not one of this client's servers, {', '.join(self.urls)}")

        async def work(pool: Pool, item: tuple[int, tuple[Sequence[int], Sequence[int]]]) -> tuple[int, list[float]]:
            place, (prompt, response) = item

            def ask(body: bytes, read: Callable[[bytes], float]) -> Awaitable[float]:
                return pool.ask(COMPLETIONS, body, read, at=[at])

            return place, await response_logprobs(ask, self.model, prompt, response)

        found = dict(self._finished(enumerate(pairs), work))
        return [found[place] for place in range(len(found))]

    def version(self) -> str:
        """Return the version of the servers' software, as they report it; several if they differ, `unknown` if none does.

        Servers that don't answer are passed over.

        Raises:
            CompletionsError: if a server's answer can't be used.
        """

        async def work(pool: Pool, url: str) -> str | None:
            try:
                return await pool.ask(VERSION, None, read_version, at=[url])
            except (RefusedRequestError, NoEndpointError):  # it has no such path, or has gone
                return None

        found = {version for version in self._finished(self.urls, work) if version is not None}
        return ", ".join(sorted(found)) or "unknown"

    def load_adapter(self, name: str, path: str) -> None:
        """Let every server load a LoRA adapter, which requests then name as their model.

        Args:
            name: name of the adapter. A name is never used for other weights: vLLM caches what it computed under it.
            path: folder of the adapter, as the servers see it.

        Raises:
            CompletionsError: if a server refuses it; the message quotes its reason.
        """
        self._tell(LOAD_ADAPTER, {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Let every server unload a LoRA adapter.

        Raises:
            CompletionsError: if a server refuses it, for instance because it does not have the adapter.
        """
        self._tell(UNLOAD_ADAPTER, {"lora_name": name})

    def _tell(self, path: str, command: Mapping[str, str]) -> None:
        """Send the same request to every server, and ignore what it answers unless it refuses."""
        body = json.dumps(command).encode()

        async def work(pool: Pool, url: str) -> str:
            return await pool.ask(path, body, lambda answer: answer.decode(errors="replace"), at=[url])

        # vLLM also refuses an adapter with status 500. The request must be given up before the server is taken out for that,
        # since it is not used again until it has the model, which may be this adapter.
        attempts = min(self.patience.attempts, self.patience.failures)
        impatient = dataclasses.replace(self, patience=dataclasses.replace(self.patience, attempts=attempts))
        for _ in impatient._finished(self.urls, work):
            pass

    def _finished(
        self, items: Iterable[Input], work: Callable[[Pool, Input], Awaitable[Result]]
    ) -> Generator[Result, None, None]:
        known = self.known
        proof = None if known is None else functools.partial(known.prove, self.model)

        @contextlib.asynccontextmanager
        async def start() -> AsyncIterator[Callable[[Input], Awaitable[Result]]]:
            async with Pool(self._keys, self.model, self.patience, proof=proof) as pool:
                yield lambda item: work(pool, item)

        return finished(items, start, concurrency=self.concurrency, ahead=self.ahead, grace=self.grace)


def read_version(answer: bytes) -> str | None:
    """Return the version in an answer of `/version`, or None."""
    try:
        found = parse_json(answer)
    except ValueError:
        return None
    version = found.get("version") if isinstance(found, dict) else None
    return visible(version[:100]) if isinstance(version, str) else None
