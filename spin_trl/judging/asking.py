"""Asks an endpoint of `/chat/completions` many questions at the same time, within the caps, until it fails for good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from ..errors import RecipeError
from ..generation.completions.address import ServerKey, base_url, refuse_plain_http
from ..generation.completions.background import finished
from ..generation.completions.endpoint import Endpoint
from ..generation.completions.failures import CompletionsError, PassingFailureError, RefusedRequestError
from ..generation.completions.waiting import Patience
from .budget import Budget, estimated_tokens
from .prompts import Question
from .records import JudgedWith, JudgeRecords
from .replies import ChatAnswer, InvalidReplyError, read_chat_answer, verdict_in

CHAT = "/chat/completions"
"""Path of the requests, after the endpoint's address."""

_ABOUT_ONE_QUESTION = (400, 413, 422)
"""Statuses that may mean that one question can't be answered, and not that none can."""

logger = logging.getLogger(__name__)


def judge_address(url: str, key: ServerKey, key_variable: str) -> str:
    """Return an endpoint's address without slashes at its end, after checking that it may be asked.

    Args:
        url: the address, as the recipe has it.
        key: key that is sent to it.
        key_variable: environment variable that the key is read from.

    Raises:
        RecipeError: if it is not an HTTP URL, contains a password or a query, or the key would be sent over a network
            without encryption. The message repeats no secret.
    """
    try:
        base = base_url(url, key_variable)
        found = f"{base}/v1" if url.strip().rstrip("/").endswith("/v1") else base
        refuse_plain_http(found, key, allowed_by=None)
    except RecipeError as error:
        raise RecipeError(f"`judge_url`: {error}") from None
    return found


@dataclass
class JudgeEndpoint:
    """An endpoint, and what has been found out about it.

    Attributes:
        url: its address, as [`judge_address`] returns it.
        key: key that it asks for.
        reply_tokens: maximum tokens of a reply.
        concurrency: maximum requests in progress.
        patience: time-outs and retries.
        takes_schema: whether it takes a JSON schema (`response_format`); None: not known yet.
        lost: why no further question can be asked; None: it can.
    """

    url: str
    key: ServerKey
    reply_tokens: int
    concurrency: int = 8
    patience: Patience = field(default_factory=lambda: Patience(request=120.0, largest_answer=2**20))
    takes_schema: bool | None = None
    lost: str | None = None

    def answered(
        self,
        questions: Iterable[tuple[str, Question]],
        asked: JudgedWith,
        records: JudgeRecords,
        budget: Budget,
        processes: int = 1,
    ) -> Generator[tuple[str, dict[str, Any] | None], None, None]:
        """Ask questions, and yield their keys and verdicts as they come; None for a question without a verdict.

        Every request is recorded. A reply that is not valid is asked for again, at most twice, and then there is no verdict.
        If an attempt fails for a reason that may pass, it is repeated with growing pauses. When requests fail one after
        another, the endpoint refuses them all, or a cap is reached, the remaining questions are not sent.

        Args:
            questions: questions by their keys.
            asked: model, settings and rubric.
            records: file of the replies.
            budget: what may be spent.
            processes: number of processes that share the concurrency.

        Raises:
            OSError: if the file can't be written.
        """
        questions = list(questions)
        self.lost = None

        @contextlib.asynccontextmanager
        async def start() -> AsyncIterator[Callable[[tuple[str, Question]], Awaitable[tuple[str, Any]]]]:
            connector = aiohttp.TCPConnector(limit=0)
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            async with aiohttp.ClientSession(
                connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
            ) as session:
                asking = _Asking(self, Endpoint(self.url, session, self.key, self.patience), asked, records, budget)
                yield asking.about

        concurrency = max(1, self.concurrency // processes)
        return finished(questions, start, concurrency=concurrency, ahead=concurrency, grace=0.0)


class _Asking:
    """One session with an endpoint, in its event loop."""

    def __init__(
        self, judge: JudgeEndpoint, endpoint: Endpoint, asked: JudgedWith, records: JudgeRecords, budget: Budget
    ) -> None:
        self._judge, self._endpoint, self._asked, self._records, self._budget = judge, endpoint, asked, records, budget
        self._chance = random.Random()
        self._failures = 0  # questions in a row that failed
        self._answered_at = time.monotonic()
        self._settled = asyncio.Event()

    async def about(self, item: tuple[str, Question]) -> tuple[str, dict[str, Any] | None]:
        """Return the key of a question, and the verdict."""
        key, question = item
        again: str | None = None
        while not self._records.is_given_up(key):
            sent = await self._sent(key, question, again)
            if sent is None:
                return key, None
            body, answer = sent
            read, verdict, again = ChatAnswer("", None, is_cut=False), None, None
            try:
                read = read_chat_answer(answer)
                read = replace(read, content=self._judge.key.removed_from(read.content))
                verdict = verdict_in(read.content, question.schema)
            except InvalidReplyError as error:
                again = f"{error}, and was cut off at the limit" if read.is_cut else str(error)
            tokens = read.tokens
            if tokens is None:
                tokens = estimated_tokens(body, read.content.encode(errors="replace"))
            self._settle(self._reserved(body), tokens)
            self._records.add(
                key,
                self._asked,
                question,
                reply=read.content,
                verdict=verdict,
                tokens=tokens,
                why=again,
            )
            if verdict is not None:
                return key, verdict
        return key, None

    async def _sent(self, key: str, question: Question, again: str | None) -> tuple[bytes, bytes] | None:
        """Return a request and its answer; None if it is not answered. What is reserved for it is still to be settled."""
        judge, patience = self._judge, self._judge.patience
        failed, busy, with_schema = 0, 0, judge.takes_schema is not False
        while judge.lost is None:
            await asyncio.sleep(max(0.0, self._endpoint.paused_until - time.monotonic()))
            body = self._body(question, again, with_schema=with_schema)
            if not await self._reserve(self._reserved(body)):
                return None
            try:
                answer = await self._endpoint.ask(CHAT, body)
            except PassingFailureError as error:
                what = f"{judge.url}: {error}"
                is_lost = error.status == 0 and error.reached  # the endpoint may have worked on it
                self._settle_failed(key, question, body, what, is_counted=not error.is_busy, has_cost=is_lost)
                failed, busy = failed + (not error.is_busy), busy + error.is_busy
                # On top of the time that all are asked to wait, so that they don't come back together.
                wait = patience.backoff(failed + busy, self._chance) + min(error.retry_after or 0.0, patience.longest)
                if error.is_busy and time.monotonic() - self._answered_at + wait > patience.gone:
                    judge.lost = what
                elif failed >= patience.attempts:
                    self._give_up(what)
                    return None
                elif error.is_busy:
                    self._endpoint.paused_until = max(self._endpoint.paused_until, time.monotonic() + wait)
                else:
                    await asyncio.sleep(wait)
            except RefusedRequestError as error:
                self._settle_failed(key, question, body, str(error), is_counted=True)
                if error.status not in _ABOUT_ONE_QUESTION:
                    judge.lost = str(error)
                elif with_schema and judge.takes_schema is None:
                    with_schema = False
                else:
                    self._give_up(str(error))
                    return None
            except CompletionsError as error:  # the answer is too large
                self._settle_failed(key, question, body, str(error), is_counted=True, has_cost=True)
                self._give_up(f"{judge.url}: {error}")
                return None
            else:
                self._failures, self._answered_at = 0, time.monotonic()
                if judge.takes_schema is None:
                    judge.takes_schema = with_schema
                    if not with_schema:
                        logger.warning(
                            "The judge at %s takes no JSON schema (`response_format`), so it is asked for JSON in words.",
                            judge.url,
                        )
                return body, answer
        return None

    def _give_up(self, what: str) -> None:
        """Give up a question. After several in a row, none is asked any more."""
        self._failures += 1
        if self._failures >= self._judge.patience.failures:
            self._judge.lost = what

    def _settle_failed(
        self, key: str, question: Question, body: bytes, what: str, *, is_counted: bool, has_cost: bool = False
    ) -> None:
        reserved = self._reserved(body)
        tokens = reserved if has_cost else 0
        self._settle(reserved, tokens, int(is_counted))
        if is_counted:
            self._records.add(key, self._asked, question, reply=None, verdict=None, tokens=tokens, why=what)

    async def _reserve(self, tokens: int) -> bool:
        """Reserve a request, as soon as those in progress leave enough for it. Return False at the cap."""
        while not self._budget.reserve(tokens):
            if self._budget.ended_by is not None:
                return False
            self._settled.clear()
            await self._settled.wait()
        return True

    def _settle(self, reserved: int, tokens: int, requests: int = 1) -> None:
        self._budget.settle(reserved, tokens=tokens, requests=requests)
        self._settled.set()

    def _reserved(self, body: bytes) -> int:
        return estimated_tokens(body) + self._judge.reply_tokens

    def _body(self, question: Question, again: str | None, *, with_schema: bool) -> bytes:
        schema = dict(question.schema)
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
        in_words = None if with_schema else json.dumps(schema)
        request = {
            "model": self._asked.model,
            "messages": question.messages(in_words=in_words, again=again),
            **self._asked.sampling,
            **({"response_format": form} if with_schema else {}),
        }
        return json.dumps(request).encode()
