"""A server of `/v1/completions` in a thread, with vLLM's form of answers and faults that tests switch on.

`with serving(CompletionServer()) as server:` starts one on a free port of this machine. A request determines its answer:
`answered(prompt, seed, count)` returns the tokens of the choice that is sampled with this seed.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Fault = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
"""Answers a request in place of the server. It is given the request and the answer that the server would give."""

EOS = 2


def answered(prompt: list[int], seed: int, count: int) -> list[int]:
    """Return the tokens with which a prompt is answered; none of them is EOS."""
    return [10 + (sum(prompt) + seed * 31 + place * 7) % 1000 for place in range(count)]


def logprob(place: int, token: int) -> float:
    """Return the log-prob of a token at a place."""
    return -(place + token / 1000)


@dataclass
class CompletionServer:
    """A server, and what it has seen.

    Attributes:
        model: name of the model in `/v1/models`.
        root: path of its weights there.
        max_length: its maximum tokens there.
        key: key that it asks for; empty: none.
        delay: seconds until it answers.
        ends_after: tokens after which a response ends with EOS; None: it is as long as `max_tokens`.
        faults: faults of the next requests, one each.
        fault: fault of all further requests.
        models_fault: fault of requests for the list of models.
        adapter_fault: fault of requests to load an adapter.
        is_healthy: whether `/health` answers with 200.
        version: version that `/version` reports; None: there is no such path.
        adapters: paths of adapters that it was told to load and not to unload, by name.
        port: port that it listens at, once it has started.
        bodies: requests that it has received.
        keys: values of their `Authorization`.
        most: most requests that were in progress at the same time.
        cancelled: requests whose client went away.
    """

    model: str = "tiny"
    root: str = "/models/tiny"
    max_length: int = 64
    key: str = ""
    delay: float = 0.0
    ends_after: int | None = None
    faults: deque[Fault] = field(default_factory=deque)
    fault: Fault | None = None
    models_fault: Fault | None = None
    adapter_fault: Fault | None = None
    is_healthy: bool = True
    version: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    cancelled: int = 0
    _busy: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, at the same port as before if the server has been started before."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), daemon=True)
        self._thread.start()
        started.wait(10)

    def stop(self) -> None:
        """Close the port and all connections, if that has not been done before."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/load_lora_adapter", self._load_adapter)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_adapter)
        if self.version is not None:
            app.router.add_get("/version", self._version)
        self._routes(app)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._stopped.wait()
        # asyncio takes some turns to hand over a connection, and forgets its socket if the server is closed before.
        for _ in range(20):
            await asyncio.sleep(0)
        await runner.cleanup()

    def _routes(self, app: web.Application) -> None:
        """Add further paths."""

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        base = {
            "id": self.model,
            "object": "model",
            "root": self.root,
            "parent": None,
            "max_model_len": self.max_length,
        }
        adapters = [
            {"id": name, "object": "model", "root": path, "parent": self.model, "max_model_len": None}
            for name, path in self.adapters.items()
        ]
        found = {"object": "list", "data": [base, *adapters]}
        return web.json_response(found) if self.models_fault is None else await self.models_fault(request, found)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _load_adapter(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.adapter_fault is not None:
            return await self.adapter_fault(request, body)
        if body["lora_path"] in self.adapters.values():
            return web.json_response({"error": {"message": "already loaded"}}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.adapters:
            return web.json_response({"error": {"message": f"no adapter {name}"}}, status=404)
        del self.adapters[name]
        return web.Response(text="Success")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if self.key and self.keys[-1] != f"Bearer {self.key}":
            return web.json_response({"error": {"message": f"Unauthorized: {dict(request.headers)}"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            await asyncio.sleep(self.delay)
            fault = self.faults.popleft() if self.faults else self.fault
            answer = self.answer(body)
            return await fault(request, answer) if fault is not None else web.json_response(answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._busy -= 1

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        choices = []
        for index in range(body["n"]):
            ids = answered(body["prompt"], body["seed"] + index, body["max_tokens"])
            if self.ends_after is not None and self.ends_after < len(ids):
                ids = [*ids[: self.ends_after], EOS]
            scored = None
            if body.get("allowed_token_ids") is not None:
                ids = [*body["allowed_token_ids"]]
                scored = {"token_logprobs": [logprob(len(body["prompt"]), token) for token in ids]}
            choices.append(
                {
                    "index": index,
                    "text": "x" * len(ids),
                    "logprobs": scored,
                    "finish_reason": "stop" if ids[-1] == EOS else "length",
                    "stop_reason": None,
                    "token_ids": ids,
                    "prompt_logprobs": None,
                    "prompt_token_ids": body["prompt"],
                }
            )
        return {"id": "cmpl-1", "object": "text_completion", "model": self.model, "choices": choices}


@contextlib.contextmanager
def serving(*servers: CompletionServer) -> Iterator[CompletionServer | tuple[CompletionServer, ...]]:
    """Start servers, and stop them in the end. The value is the server, or all of them."""
    for server in servers:
        server.start()
    try:
        yield servers if len(servers) > 1 else servers[0]
    finally:
        for server in servers:
            server.stop()


def status(code: int, body: Any = None, **headers: str) -> Fault:
    """Answer with another status; `Retry_After` is the header `Retry-After`."""

    async def fault(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": "no"}} if body is None else body, status=code, headers=named)

    return fault


def echo(code: int) -> Fault:
    """Answer with another status and a message that repeats the request's headers."""

    async def fault(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"bad request: {dict(request.headers)}"}}, status=code)

    return fault


async def as_it_is(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Answer as without a fault, between requests with one."""
    return web.json_response(answer)


async def hang(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Don't answer at all."""
    await asyncio.sleep(3600)
    return web.json_response(answer)


async def truncated(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Answer with the first half of the JSON, as if it were whole."""
    text = json.dumps(answer)
    return web.Response(text=text[: len(text) // 2], content_type="application/json")


async def cut(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Close the connection in the middle of the answer."""
    text = json.dumps(answer).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(text))})
    await response.prepare(request)
    await response.write(text[: len(text) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


async def slow(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Send the headers at once, and the answer byte by byte, for a minute."""
    response = web.StreamResponse()
    await response.prepare(request)
    for byte in json.dumps(answer).encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(0.1)
    return response


def changed(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Change the answer: `changed(lambda answer: answer["choices"].pop())`."""

    async def fault(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        change(answer)
        return web.json_response(answer)

    return fault


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened in time"
        time.sleep(0.005)
