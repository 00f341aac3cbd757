"""A proxy in front of a vLLM server: it starts the server, passes requests on to it, and writes down what it answers.

Paths of this machine are replaced in what it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from spin_trl.generation.vllm.process import free_port
from vllm_replay.recording import LOAD, Line
from vllm_replay.started import Started
from vllm_replay.weights import sample_of

LINES, WIDTH = 400, 400
"""The last lines of a server that ended by itself, and how much of each. After the error, vLLM writes a hundred others."""

SECONDS_TO_BE_TOLD = 1.0
"""Time in which this process learns that both were told to end. The exit code does not tell: it is 0 after failures."""


class Recorder:
    """A vLLM server and the file that its answers are written to."""

    def __init__(self, file: Path, command: list[str], arguments: list[str]) -> None:
        self.file, self.started = file, Started(arguments)
        self.names: dict[str, str] = {}
        self.replaced = {
            os.path.dirname(os.path.dirname(command[0])): "/envs/vllm",
            sys.base_prefix: "/python",
            str(Path.home()): "/home",
        }
        self.served = str(self.started.option("served-model-name"))
        self.know(self.served, self.started.model)
        self.port = free_port()
        self.process = subprocess.Popen(
            [*command, *self.started.at(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self.last: deque[str] = deque(maxlen=LINES)
        self.is_told_to_end = self.has_version = False
        threading.Thread(target=self.pass_on, daemon=True).start()

    def know(self, name: str, folder: Path) -> None:
        """Name the weights in a folder, which a model of this name has."""
        self.names[name] = uuid.uuid4().hex
        self.replaced[str(folder)] = f"/models/{folder.name}"
        self.write({"weights": self.names[name], "sample": sample_of(folder)})

    def write(self, line: Line) -> None:
        text = json.dumps(line, ensure_ascii=False)
        for path in sorted(self.replaced, key=len, reverse=True):
            text = text.replace(path, self.replaced[path])
        with self.file.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def pass_on(self) -> None:
        """Pass the server's output on, and end with it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last.append(line.rstrip()[:WIDTH])
            print(line, end="", flush=True)
        code = self.process.wait()
        time.sleep(SECONDS_TO_BE_TOLD)
        if self.is_told_to_end:
            return
        self.write({"of": self.names[self.served], "exit": code, "log": "\n".join(self.last)})
        os._exit(code)

    async def end(self, _: web.Application) -> None:
        """Note that this process was told to end, as the server was."""
        self.is_told_to_end = True

    async def answer(self, request: web.Request) -> web.Response:
        """Pass a request on, and write down the answer."""
        text = await request.text()
        body: Any = json.loads(text) if text else None
        model = (body or {}).get("model", self.served)
        if request.path == LOAD:
            self.know(body["lora_name"], Path(body["lora_path"]))
            model = body["lora_name"]
        headers = {
            name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers
        }
        try:
            status, kind, answer = await self.ask(request.method, request.path, text, headers)
            if not self.has_version:
                self.has_version = True
                _, _, version = await self.ask("GET", "/version", "", headers)
                self.write({"vllm": json.loads(version)["version"]})
        except aiohttp.ClientConnectionError:
            return web.Response(status=503)
        if status != 401 and model in self.names:
            self.write(
                {
                    "of": self.names[model], "rank": self.started.rank, "method": request.method,
                    "path": request.path, "asked": body, "status": status, "type": kind, "answer": answer,
                }
            )  # fmt: skip
        return web.Response(text=answer, status=status, headers={"Content-Type": kind} if kind else {})

    async def ask(self, method: str, path: str, text: str, headers: dict[str, str]) -> tuple[int, str | None, str]:
        """Return status, content type and text of the server's answer."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session,
            session.request(method, url, data=text or None, headers=headers) as answered,
        ):
            return answered.status, answered.headers.get("Content-Type"), await answered.text()


def main(file: Path, command: list[str]) -> None:
    """Run vLLM's command, with its arguments, and record it."""
    if "serve" not in command:
        sys.exit(subprocess.run(command, check=False).returncode)
    place = command.index("serve")
    recorder = Recorder(file, command[:place], command[place:])
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", recorder.answer)
    app.on_shutdown.append(recorder.end)
    port = int(str(recorder.started.option("port")))
    try:
        web.run_app(app, host=recorder.started.option("host"), port=port, print=None)
    finally:
        recorder.process.terminate()
