"""A server of `/v1/completions` that answers after a fixed time, with as many tokens as a request asks for.

`benchmarks/server.py` starts it: `python benchmarks/completions/mock.py SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

MODEL = "mock"
VOCABULARY = 50_000


def serve(seconds: float) -> None:
    """Serve at a free port, which is printed, until the process is ended."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(seconds)
        ids = [7 + (place * 977) % VOCABULARY for place in range(body["max_tokens"])]
        choice = {"index": 0, "text": "", "finish_reason": "length", "stop_reason": None, "token_ids": ids}
        return web.json_response({"model": MODEL, "choices": [{**choice, "prompt_token_ids": body["prompt"]}]})

    async def main() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/completions", complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


if __name__ == "__main__":
    serve(float(sys.argv[1]))
