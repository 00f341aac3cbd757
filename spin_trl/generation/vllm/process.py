"""A vLLM server of the run's own: starting it, waiting until it answers, and ending every process that belongs to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ...errors import LaunchError, visible
from ...files import parse_json
from . import watchdog
from .causes import PORT_TAKEN, cause_in, first_error
from .environment import server_environment
from .flags import HOST, Flags
from .server_log import last_lines, read_log

COMMAND = ("vllm",)
"""Default of `vllm_command`."""

GRACE = 20.0
"""Seconds that a server gets between SIGTERM and SIGKILL."""

_ATTEMPTS = 3
"""Ports that are tried if another program takes the port between its choice and its use."""

_SECONDS_FOR_AN_ANSWER = 5.0
_SECONDS_FOR_A_TOKEN = 180.0
"""Time limit for the first token, before which kernels may be compiled."""


class Server:
    """A vLLM server that belongs to this process and ends with it, also if this process is killed.

    It is a context manager: on entering, the server is started, without waiting until it is ready; on leaving, it is ended.
    [`servers.running`] starts several at the same time and waits for them.

    Args:
        flags: what is served, and how.
        log: file that the server's output is appended to.
        command: command of vLLM, such as `["/envs/vllm/bin/vllm"]`.
        devices: value of `CUDA_VISIBLE_DEVICES`; None: that of this process.
        grace: seconds that the server gets between SIGTERM and SIGKILL.

    Attributes:
        key: key that requests must send (`Authorization: Bearer KEY`). Like `url`, it may change until the server is ready.
    """

    def __init__(
        self,
        flags: Flags,
        log: Path,
        command: Sequence[str] = COMMAND,
        *,
        devices: str | None = None,
        grace: float = GRACE,
    ) -> None:
        self.flags, self.log, self.command, self.devices, self.grace = flags, log, list(command), devices, grace
        self.key = _new_key()
        self.port: int | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._attempts = self._log_start = 0
        self._has_generated = False

    @property
    def url(self) -> str:
        """The address of the server, without `/v1`; it may change until the server is ready."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        """Start the server's processes, without waiting until it is ready.

        Raises:
            LaunchError: if there is no such command.
        """
        if shutil.which(self.command[0]) is None:
            raise LaunchError(
                f"There is no command {self.command[0]!r} to start vLLM with. Name it in `vllm_command`, with its full path "
                "if it is in an environment of its own."
            )
        self.port, self._attempts, self._has_generated = free_port(), self._attempts + 1, False
        self.key = _new_key()  # a program that took the previous port may have been asked with the previous key
        environment = server_environment(
            self.flags.model, self.key, devices=self.devices, loads_adapters=self.flags.lora_rank is not None
        )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._watchdog = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), str(self.grace)),
                    *(*self.command, *self.flags.arguments(self.port)),
                ],
                stdin=subprocess.PIPE,  # the pipe that this process holds open for as long as the server may run
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # an interrupt in the terminal is for the run, which then ends the server
            )

    def is_ready(self) -> bool:
        """Return whether the server answers requests, and has generated a token.

        Without compilation vLLM is healthy before it has run the model once, even on a device that can't run it.

        Raises:
            LaunchError: if it has ended, or refuses to generate. The message has the likely cause and the last lines of its
                output.
        """
        self.check()
        if self._has_generated:
            return True
        if self.port is None or not _is_healthy(self.port, self.key, self.flags.name):
            return False
        body = json.dumps({"model": self.flags.name, "prompt": [0], "max_tokens": 1, "temperature": 0.0})
        status, answer = _ask(self.port, "POST", "/v1/completions", self.key, body, _SECONDS_FOR_A_TOKEN)
        if 400 <= status < 500:
            raise LaunchError(
                self.failure(f"does not generate (HTTP {status}: {answer[:400].decode(errors='replace')})")
            )
        self._has_generated = status == http.client.OK
        if self._has_generated:
            self._attempts = _ATTEMPTS  # its port is its own from now on
        return self._has_generated

    def check(self) -> None:
        """Raise if the server has ended by itself. If only its port had been taken, it is started again with another.

        Raises:
            LaunchError: if it has ended, or was never started.
        """
        if self._watchdog is None:
            raise LaunchError("The vLLM server has not been started, or has been ended.")
        code = self._watchdog.poll()
        if code is None:
            return
        self.end()
        cause = cause_in(self.output())
        if cause is not None and cause.name == PORT_TAKEN and self._attempts < _ATTEMPTS:
            self.start()
            return
        raise LaunchError(self.failure(f"ended with exit code {code}"))

    def output(self) -> str:
        """Return the end of the server's output since its last start, as safe text."""
        return read_log(self.log, self._log_start, [self.key])

    def failure(self, what: str) -> str:
        """Return a message about a failure: what happened, the likely cause, and the last lines of the output."""
        output = self.output()
        # Whoever is killed for memory (exit code 137) writes nothing.
        cause, error, lines = cause_in(f"{output}\n{what}"), first_error(output), last_lines(output)
        reasons = f" {cause.sentence}" if cause is not None else ""
        reasons += f"\nFirst error: {error}" if error is not None else ""
        tail = f"Last lines of {self.log}:\n{lines}" if lines else f"It has written nothing to {self.log}."
        return visible(f"The vLLM server {what}.{reasons}\nCommand: {self.command_line}\n{tail}")

    @property
    def command_line(self) -> str:
        """The command that starts the server, as one would type it; it has no key."""
        return visible(shlex.join([*self.command, *self.flags.arguments(self.port or 0)]))

    def tell_to_end(self) -> None:
        """Tell the server to end, without waiting for it."""
        if self._watchdog is not None:
            with contextlib.suppress(OSError):
                assert self._watchdog.stdin is not None
                self._watchdog.stdin.close()
            # A worker process that was forked from this one may hold the pipe open.
            self._watchdog.terminate()

    def end(self) -> None:
        """End the server and every process that it has started, and wait until they are gone. Do nothing if it has ended.

        If this is interrupted, the watchdog still ends them.

        Raises:
            LaunchError: if a process can't be ended.
        """
        if self._watchdog is None:
            return
        self.tell_to_end()
        started = self._watchdog
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(self.grace + watchdog.SECONDS_AFTER_SIGKILL + 5)
        left = _end_session(started.pid)  # if the watchdog itself was killed or hangs
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(1)
        self._watchdog = None
        if left or started.returncode == watchdog.STILL_THERE:
            numbers = ", ".join(map(str, left)) or f"see {self.log}"
            raise LaunchError(
                f"Processes of the vLLM server can't be ended ({numbers}). They may hold memory of the device. End them, "
                "then run the same command to resume."
            )


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def free_port() -> int:
    """Return a port of this machine that no program uses at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def _is_healthy(port: int, key: str, name: str) -> bool:
    """Return whether a server is healthy and is the one that knows this key.

    Health alone may be that of another run's server on the same port, as vLLM listens on its port only when it is ready.
    """
    if _ask(port, "GET", "/health", key)[0] != http.client.OK:
        return False
    status, answer = _ask(port, "GET", "/v1/models", key)
    try:
        models: Any = parse_json(answer)
        return status == http.client.OK and any(model["id"] == name for model in models["data"])
    except (ValueError, TypeError, KeyError):
        return False


def _ask(
    port: int, method: str, path: str, key: str, body: str | None = None, seconds: float = _SECONDS_FOR_AN_ANSWER
) -> tuple[int, bytes]:
    """Return the status and the body of a server's answer; the status 0 if there is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _end_session(session: int) -> list[int]:
    """Kill the processes of a session. Return those that are still there after some seconds."""
    deadline = time.monotonic() + watchdog.SECONDS_AFTER_SIGKILL
    while (left := processes_in_session(session)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return left


def processes_in_session(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def vllm_version(command: Sequence[str] = COMMAND, seconds: float = 120.0) -> str | None:
    """Return the version that a command of vLLM reports, such as `0.31.0`, or None if it does not answer.

    Args:
        command: command of vLLM.
        seconds: time limit. The command imports torch first.
    """
    try:
        started = subprocess.Popen(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=server_environment("", ""),
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_session(started.pid)
        started.wait()
    found = re.findall(r"^v?(\d+\.\d+\S*)\s*$", output.decode("utf-8", errors="replace"), re.MULTILINE)
    return found[-1] if found and started.returncode == 0 else None
