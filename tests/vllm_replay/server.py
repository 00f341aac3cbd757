"""A server that is started, asked and ended as vLLM is, and gives the answers that were recorded from it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from vllm_replay.recording import COMPLETE, LOAD, MODELS, Line, NotRecordedError, key_of, read
from vllm_replay.started import Started
from vllm_replay.weights import Sample, sample_of

SECONDS_TO_START = 1.0
"""Time in which a run is killed while a server starts: vLLM takes minutes."""

NOT_RECORDED = 404
"""Status for what was not recorded: a client does not ask again."""

ENGINE = "import time; time.sleep(3600)"
"""Program of the process that vLLM runs the model in; here it only has to be ended."""


class Replay:
    """A server of weights and of adapters for them, which were recorded.

    Attributes:
        served: name of the weights that it was started with.
        samples: values of the weights and of loaded adapters, by name.
        folders: their folders.
    """

    def __init__(self, file: Path, started: Started, key: str) -> None:
        self.file, self.started, self.key = file, started, key
        self.recording = read(file)
        self.served = str(started.option("served-model-name"))
        self.samples: dict[str, Sample] = {self.served: sample_of(started.model)}
        self.folders = {self.served: started.model}

    def recorded(self, sample: Sample, method: str, path: str, body: Any) -> Line:
        """Return the recorded answer to a request.

        Raises:
            NotRecordedError: if there is none.
        """
        return self.recording.answer(sample, key_of(method, path, self.started.rank, body))

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any request."""
        if request.path.startswith("/v1/") and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        text = await request.text()
        body: Any = json.loads(text) if text else None
        try:
            if request.path == LOAD:
                return self.load(body)
            if request.path == MODELS:
                return self.models()
            name = body["model"] if body else self.served
            if name not in self.samples:
                raise NotRecordedError(f"there is no model {name}")
            if request.path == COMPLETE:
                self.end_as_recorded()
            return as_response(self.recorded(self.samples[name], request.method, request.path, body))
        except NotRecordedError as error:
            message = f"{error}. `make test-vllm RECORD=1` records {self.file.name} again"
            print(message, flush=True)
            return web.json_response({"error": {"message": message}}, status=NOT_RECORDED)

    def end_as_recorded(self) -> None:
        """End as vLLM did if it could not run these weights."""
        if (ended := self.recording.exit_of(self.samples[self.served])) is not None:
            print(ended["log"], flush=True)
            os._exit(ended["exit"])

    def load(self, body: dict[str, str]) -> web.Response:
        """Load an adapter, or refuse it, as vLLM did."""
        name, folder = body["lora_name"], Path(body["lora_path"])
        sample = sample_of(folder)
        line = self.recorded(sample, "POST", LOAD, body)
        if line["status"] == 200:
            self.samples[name], self.folders[name] = sample, folder
        return as_response(line, {line["asked"]["lora_name"]: name, line["asked"]["lora_path"]: str(folder)})

    def models(self) -> web.Response:
        """Return the list of models: vLLM's entry for its weights, and one like it for each adapter, with them as parent."""
        line = self.recorded(self.samples[self.served], "GET", MODELS, None)
        found = json.loads(line["answer"])
        own = found["data"][0]
        found["data"] = [
            {**own, "id": name, "root": str(folder), "parent": None if name == self.served else self.served}
            for name, folder in self.folders.items()
        ]
        return web.json_response(found, status=line["status"])


def as_response(line: Line, names: dict[str, str] | None = None) -> web.Response:
    """Return a recorded answer, with the names of this server."""
    text = line["answer"]
    for recorded, name in (names or {}).items():
        text = text.replace(recorded, name)
    headers = {"Content-Type": line["type"]} if line["type"] else {}
    return web.Response(text=text, status=line["status"], headers=headers)


async def serve(file: Path, started: Started) -> None:
    """Start, and answer until the process is ended."""
    replay = Replay(file, started, os.environ["VLLM_API_KEY"])
    print(f"{file.name}: recorded answers of vLLM {replay.recording.version}", flush=True)
    await asyncio.sleep(SECONDS_TO_START)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", replay.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, started.option("host"), int(str(started.option("port")))).start()
    await asyncio.Event().wait()


def main(file: Path, arguments: list[str]) -> None:
    """Behave as vLLM's command with these arguments."""
    if arguments == ["--version"]:
        print(read(file).version)
        sys.exit()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ENGINE]):
        asyncio.run(serve(file, Started(arguments)))
