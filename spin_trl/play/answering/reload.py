"""How servers come by the weights that are to answer next: adapters by request, or a command of the user's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...config.credentials import hide
from ...errors import LaunchError, visible
from ...files import Checksum
from ...generation.completions.client import CompletionsClient
from ...generation.completions.endpoint import ServedModel
from ...generation.completions.failures import CompletionsError, RefusedRequestError, ServedWeightsError
from ...models.adapters import WEIGHTS, local_folder
from ...run.run import Run
from .served import adapter_name

Available = Mapping[str, Sequence[ServedModel]]
"""The models of the servers that answer, by URL."""

SECONDS_BETWEEN = 2.0
"""Time between two looks at servers that have not all answered yet."""

_MOST_OUTPUT = 2_000
"""Bytes of a failed command's output that a message quotes."""


def server_path(run: Run, path: str | Path) -> str:
    """Return the path of a model as the servers see it.

    Args:
        run: the run.
        path: folder or Hub name of the model. Only folders in the run directory may have another path there.
    """
    folder, directory = Path(path), run.directory.path.resolve()
    if not folder.is_dir():
        return str(path)
    folder = folder.resolve()
    if run.play.server_model_root is None or not folder.is_relative_to(directory):
        return str(folder)
    return str(Path(run.play.server_model_root, folder.relative_to(directory)))


def name_on_servers(run: Run, path: str) -> str:
    """Return the name of an adapter on the servers, such as `my-run-iteration-2-1f3a9c04`.

    It ends with the start of the weights' checksum: vLLM caches what it computed under an adapter's name, so a name must
    never stand for other weights, not even after a run has been started over.
    """
    return f"{adapter_name(run, path)}-{Checksum.of(local_folder(path) / WEIGHTS).sha256[:8]}"


def load_at(client: CompletionsClient, url: str, models: Sequence[ServedModel], name: str, folder: str) -> None:
    """Let a server load an adapter, unless it has it.

    Args:
        client: client of the servers.
        url: URL of the server.
        models: models that it has.
        name: name of the adapter there, see [`name_on_servers`].
        folder: folder or Hub name of the adapter, as the server sees it ([`server_path`]).

    Raises:
        NoEndpointError: if the server does not answer.
        ServedWeightsError: if it refuses the adapter.
    """
    if name in [model.name for model in models]:
        return
    one = dataclasses.replace(client, urls=[url])
    try:
        one.load_adapter(name, folder)
    except RefusedRequestError as error:
        if name in [model.name for model in one.available()[0].get(url, ())]:
            return  # another process of the run was quicker
        raise ServedWeightsError(
            f"The adapter in {folder} can't be loaded at {url}: {error}. A server loads adapters if vLLM was started "
            "with `--enable-lora`, a `--max-lora-rank` of at least `lora_r`, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True "
            "in its environment. `server_model_root` is the path of the run directory as the servers see it."
        ) from error


def unload_others(run: Run, client: CompletionsClient, available: Available, name: str) -> None:
    """Let every server unload the run's other adapters. Failures are ignored: an adapter that stays costs only memory.

    Args:
        run: the run.
        client: client of the servers.
        available: models of the servers, as listed before the current adapter was loaded.
        name: name of the adapter that stays.
    """
    inside = f"{server_path(run, run.directory.path).rstrip('/')}/"
    for url, models in available.items():
        for model in models:
            if model.name != name and model.parent is not None and (model.root or "").startswith(inside):
                with contextlib.suppress(CompletionsError):
                    dataclasses.replace(client, urls=[url]).unload_adapter(model.name)


def look(client: CompletionsClient, seconds: float) -> tuple[Available, dict[str, str]]:
    """Ask the servers which models they have, until all answer or the time is over.

    Returns:
        The models of those that answer, and the failures of the others, by URL.

    Raises:
        CompletionsError: if a server refuses the key, or is not a server of this kind.
    """
    end = time.monotonic() + seconds
    while True:
        available, failures = client.available()
        if not failures or time.monotonic() >= end:
            return available, failures
        time.sleep(max(min(SECONDS_BETWEEN, end - time.monotonic()), 0.0))


def run_commands(run: Run, path: str, urls: Sequence[str]) -> None:
    """Run the user's command for servers, one after another (`server_reload_command`).

    Args:
        run: the run.
        path: folder or Hub name of the model that is to be served.
        urls: URLs of the servers.

    Raises:
        LaunchError: if it can't be started, fails, or takes too long; the message has the end of its output.
    """
    for url in urls:
        arguments = filled_in(run.play.server_reload_command or [], server_path(run, path), url)
        shown = f"`server_reload_command` ({shlex.join(arguments)})"
        try:
            code, printed = _ended(arguments, run.play.server_reload_timeout)
        except OSError as error:
            raise LaunchError(f"{shown} can't be started: {error.strerror or error}.") from error
        except subprocess.TimeoutExpired as error:
            raise LaunchError(
                f"{shown} has not ended within {run.play.server_reload_timeout:g} s (`server_reload_timeout`). It must end "
                "when the server has begun to start; the run itself waits until the server answers."
            ) from error
        if code:
            output = visible(hide(printed.strip())) or "It printed nothing."
            raise LaunchError(f"{shown} ended with exit code {code}. The end of its output:\n{output}")


def _ended(arguments: Sequence[str], seconds: float) -> tuple[int, str]:
    """Return the exit code of a command, and the end of its output.

    The output goes to a file: a server that the command leaves behind would keep a pipe open for as long as it runs.

    Raises:
        OSError: if the command can't be started.
        subprocess.TimeoutExpired: if it takes longer than this many seconds.
    """
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
        start = max(os.fstat(output.fileno()).st_size - _MOST_OUTPUT, 0)
        return done.returncode, os.pread(output.fileno(), _MOST_OUTPUT, start).decode("utf-8", errors="replace")


def filled_in(command: Sequence[str], model: str, url: str) -> list[str]:
    """Return a command's arguments with `{model}` and `{url}` replaced. A command in one piece is split as a shell does."""
    parts = shlex.split(command[0]) if len(command) == 1 else command
    return [part.replace("{model}", model).replace("{url}", url) for part in parts]
