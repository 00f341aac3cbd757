"""Servers that exist already answer with one of a run's models, once their log-probs show that they have its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...config.server import KEY_VARIABLE, RELOAD_COMMAND, RELOAD_LORA, RELOAD_PAUSE, SERVER
from ...counts import counted
from ...errors import RecipeError, noted
from ...generation.completions.address import ServerKey
from ...generation.completions.client import CompletionsClient, KnownResponses
from ...generation.completions.failures import NoEndpointError, ServedWeightsError
from ...generation.completions.waiting import Patience
from ...generation.completions.weights import Logprobs, WeightsComparison, WeightsVerdict
from ...generation.engines.server import ServerEngine
from ...generation.vllm.flags import lora_rank_for
from ...generation.vllm.refusals import adapter_folder_refusals, lora_refusals
from ...models.adapters import base_of, has_adapter, is_adapter, load_adapter_config, local_folder
from ...run.run import Run
from .known_weights import KnownWeights, ScoreUnder
from .pause import pause
from .reload import Available, load_at, look, name_on_servers, run_commands, server_path, unload_others
from .served import context_length

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 20.0
"""Time in which servers must say which models they have, unless they are being restarted by the run."""


def ask_servers(run: Run, path: str, eos_token_ids: Sequence[int], score: ScoreUnder) -> ServerEngine:
    """Return an engine that generates with a model at the servers of `server_urls`.

    Servers that don't answer are left out, with a warning. The others must have the model's weights; if they don't, they are
    given them as `server_reload` says.

    Args:
        run: the run, whose data is prepared.
        path: folder or Hub name of the model, or of an adapter.
        eos_token_ids: ids of all tokens that end a response.
        score: function that loads a model of the run here, and returns log-probs.

    Raises:
        CompletionsError: if no server answers, or one refuses the key, returns no token ids or has other weights.
        LaunchError: if the user's command fails.
        PausedError: if the servers have to be given the weights by hand.
    """
    servers = _Servers(run, path, client_of(run, eos_token_ids))
    servers.look(ANSWER_SECONDS)
    servers.check_available()
    known = KnownWeights.of(run, path, score)
    servers.compare(known)
    if reload_of(run) == RELOAD_COMMAND:
        servers.reload_by_command(known)
    servers.check_weights(known)
    engine = servers.engine(known)
    if reload_of(run) == RELOAD_LORA:
        unload_others(run, engine.client, servers.available, engine.client.model)
    return engine


def reload_of(run: Run) -> str:
    """Return how servers come by the next weights: `server_reload`, or its default for the run."""
    return run.play.server_reload or (RELOAD_LORA if _adapts(run) else RELOAD_PAUSE)


def client_of(run: Run, eos_token_ids: Sequence[int]) -> CompletionsClient:
    """Return a client of the servers, which does not know the name of the model yet.

    Raises:
        RecipeError: if a URL or the key can't be used.
    """
    return CompletionsClient(
        run.play.server_urls or [],
        run.play.server_model or "",
        eos_token_ids,
        key=_key(run.play.server_key_variable),
        allow_plain_http=run.play.server_allow_plain_http,
        concurrency=run.play.generation_concurrency,
        patience=Patience(request=run.play.generation_timeout),
    )


def against_servers(run: Run) -> Iterator[str]:
    """Yield the reasons why servers that exist already can't generate for a run."""
    play = run.play
    if run.args.engine != SERVER:
        return
    refused: list[str] = []
    if play.server_urls:
        noted(refused, lambda: client_of(run, [0]))
    yield from refused
    if not play.server_urls:
        yield "`engine: server` needs the addresses of the servers: set `server_urls`, for instance [http://gpu-1:8000]."
    if run.quantization_config is not None:
        yield (
            "`engine: server` would need servers with the same quantised weights as the opponent's. Use `engine: "
            "transformers`."
        )
    if play.server_model_root is not None and not PurePosixPath(play.server_model_root).is_absolute():
        yield f"`server_model_root` is {play.server_model_root!r}; expected an absolute path on the servers' machine."
    reload, command = reload_of(run), play.server_reload_command
    if reload == RELOAD_COMMAND and not command:
        yield "`server_reload: command` needs the command: set `server_reload_command`."
    elif reload == RELOAD_COMMAND and not any("{model}" in part for part in command or ()):
        yield "`server_reload_command` has no {model}, so it can't know which weights to serve."
    elif command and reload != RELOAD_COMMAND:
        yield f"`server_reload_command` has no effect with `server_reload: {reload}`. Set `server_reload: command`."
    if reload == RELOAD_LORA and not _adapts(run):
        yield (
            "`server_reload: lora` loads adapters, but this run trains all weights. Use `server_reload: pause` or "
            "`command`, or train an adapter (`use_peft: true`)."
        )
    elif reload == RELOAD_LORA and run.peft_config is not None:
        yield from lora_refusals(run.peft_config)
    elif reload == RELOAD_LORA and run.given is None:
        yield from adapter_folder_refusals(local_folder(str(run.model)))


def served_name(available: Available, given: str | None, folders: Iterable[str]) -> str | None:
    """Return the name under which all servers have a model; None if there is none, or several could be meant.

    Args:
        available: models of the servers.
        given: name that the user has set (`server_model`), or None.
        folders: paths of the model, by which a server may describe it.
    """
    if given is not None:
        return given if all(given in [model.name for model in models] for models in available.values()) else None
    paths = set(folders)
    by_path = [{model.name for model in models if model.root in paths} for models in available.values()]
    common = set.intersection(*by_path) if by_path else set()
    if common:
        return min(common)
    bases = [[model for model in models if model.parent is None] for models in available.values()]
    # Names of the same weights are aliases (`--served-model-name` takes several); a proxy lists different models.
    if any(len({model.root or model.name for model in models}) > 1 for models in bases):
        return None
    names = [{model.name for model in models} for models in bases]
    return min(set.intersection(*names), default=None) if names else None


class _Servers:
    """The servers of a run while they are made to answer with one of its models.

    Args:
        run: the run.
        path: folder or Hub name of the model.
        client: client of all servers.
    """

    def __init__(self, run: Run, path: str, client: CompletionsClient) -> None:
        self._run, self._path, self._client = run, path, client
        self._is_loaded = reload_of(run) == RELOAD_LORA and is_adapter(path)
        self._reloaded: set[str] = set()
        self.available: Available = {}
        self._failures: dict[str, str] = {}
        self._compared: dict[str, WeightsComparison] = {}

    def look(self, seconds: float) -> None:
        """Find out which servers answer, and which models they have."""
        self.available, self._failures = look(self._client, seconds)

    def check_available(self) -> None:
        """Raise if no server answers, or one has a context that is too short for the run."""
        lines = "".join(f"\n- {url}: {failure}" for url, failure in self._failures.items())
        if not self.available:
            if self._is_by_hand:
                self._pause(f"No server answers:{lines}")
            if reload_of(self._run) != RELOAD_COMMAND:
                raise NoEndpointError(
                    f"No server of `server_urls` answers:{lines}\nStart them, and run the same command to go on.",
                    self._failures,
                )
        elif lines and reload_of(self._run) != RELOAD_COMMAND:
            logger.warning("These servers don't answer, and are left out:%s", lines)
        needed = context_length(self._run)
        for url, models in self.available.items():
            lengths = [model.max_length for model in models if model.max_length is not None]
            if needed is not None and lengths and max(lengths) < needed:
                raise ServedWeightsError(
                    f"{url} has a context of {max(lengths)} tokens, but a prompt and its response may have {needed} "
                    f"(`max_length`): responses would be cut off earlier. Start it with `--max-model-len {needed}`."
                )

    def compare(self, known: KnownWeights) -> None:
        """Compare the log-probs of the servers that answer with those of the run's models."""
        self._compared = {}
        name = self._name()
        if name is None or not self.available:
            return
        client = self._client_of(name)
        client.check()
        for url in client.urls:
            with self._leaving_out(url):
                self._compared[url] = known.compare(client.score(url, known.pairs))

    def reload_by_command(self, known: KnownWeights) -> None:
        """Run the user's command for servers that don't have the right weights for sure, and compare again."""
        urls = [url for url in self._client.urls if not self._is(url, WeightsVerdict.RIGHT)]
        if not urls:
            return
        run_commands(self._run, self._path, urls)
        self.look(self._run.play.server_reload_timeout)
        if self._failures:
            lines = "".join(f"\n- {url}: {failure}" for url, failure in self._failures.items())
            raise NoEndpointError(
                "After `server_reload_command`, servers have not answered within "
                f"{self._run.play.server_reload_timeout:g} s (`server_reload_timeout`):{lines}",
                self._failures,
            )
        self._reloaded |= set(urls)
        self.compare(known)

    def check_weights(self, known: KnownWeights) -> None:
        """Raise unless the servers have the weights that are to answer."""
        lines = [*self._wrong(known)]
        if lines and self._is_by_hand:
            self._pause("\n".join(lines))
        if lines:
            raise ServedWeightsError(
                f"{known.expected} is to answer, but the servers don't have its weights:\n"
                + "\n".join(lines)
                + f"\n{self._remedy(known.expected)} Run the same command to go on; what is finished is kept."
            )
        for url, one in self._compared.items():
            if one.verdict == WeightsVerdict.UNSURE:
                logger.warning("%s", _weights_at(url, one, self._client.model))

    def engine(self, known: KnownWeights) -> ServerEngine:
        """Return the engine that asks the servers."""
        verdicts = {one.verdict for one in self._compared.values()}

        def check(served: Logprobs) -> None:
            one = known.compare(served)
            if one.verdict not in verdicts:
                raise ServedWeightsError(
                    f"it has other weights than before: {one.in_words()}, over {counted(one.tokens, 'token')}"
                )

        client = self._client_of(self._client.model)
        client = dataclasses.replace(client, known=KnownResponses(known.pairs, check))
        return ServerEngine(client, client.version(), _for_manifest(self._compared.values()))

    @property
    def _is_by_hand(self) -> bool:
        """Whether the user has to give the servers these weights: all, or a base for adapters that the run has made."""
        reload = reload_of(self._run)
        return reload == RELOAD_PAUSE or (reload == RELOAD_LORA and not self._is_loaded and self._is_made_here)

    @property
    def _is_made_here(self) -> bool:
        """Whether the run has made the model, so that its servers can't have had it from the beginning."""
        return Path(self._path).resolve().is_relative_to(self._run.directory.path.resolve())

    @contextlib.contextmanager
    def _leaving_out(self, url: str) -> Iterator[None]:
        """Leave a server out if it can't be used any more. The error of the last one is raised."""
        try:
            yield
        except NoEndpointError as error:
            rest = {other: models for other, models in self.available.items() if other != url}
            if not rest:
                raise
            self.available = rest
            logger.warning("%s no longer answers, and is left out. %s", url, error)

    def _client_of(self, name: str) -> CompletionsClient:
        """Return a client of the servers that answer, for a model of theirs."""
        self._client = dataclasses.replace(self._client, model=name)
        return dataclasses.replace(self._client, urls=list(self.available))

    def _name(self) -> str | None:
        """Return the name of the model on the servers, after loading it if it is an adapter; None if it is not clear."""
        if self._is_loaded:
            name, folder = name_on_servers(self._run, self._path), server_path(self._run, self._path)
            for url, models in self.available.items():
                with self._leaving_out(url):
                    load_at(self._client, url, models, name, folder)
            return name
        return served_name(self.available, self._run.play.server_model, self._paths())

    def _paths(self) -> list[str]:
        """Return the paths by which a server may describe the model."""
        return [server_path(self._run, self._path), self._path, os.path.abspath(self._path)]

    def _is(self, url: str, verdict: WeightsVerdict) -> bool:
        return url in self._compared and self._compared[url].verdict == verdict

    def _is_acknowledged(self, url: str) -> bool:
        """Return whether a server has said that it serves the model, whatever its log-probs say."""
        if self._is_loaded or url in self._reloaded:
            return True
        if reload_of(self._run) == RELOAD_LORA and not self._is_made_here:
            return True  # the base was asked for by its name, and is never another
        paths = self._paths()
        return any(model.name == self._client.model and model.root in paths for model in self.available[url])

    def _wrong(self, known: KnownWeights) -> Iterator[str]:
        """Yield a line for each server that does not have the right weights."""
        if not self._compared:
            given = self._run.play.server_model
            asked = "`server_model` is not set" if given is None else f"`server_model` is {given!r}"
            for url, models in self.available.items():
                yield f"- {url} lists {', '.join(repr(model.name) for model in models) or 'no model'}, and {asked}."
        for url, one in self._compared.items():
            if one.verdict == WeightsVerdict.WRONG or (
                one.verdict == WeightsVerdict.UNSURE and not self._is_acknowledged(url)
            ):
                yield f"- {_weights_at(url, one, self._client.model)}"

    def _remedy(self, expected: str) -> str:
        if self._is_loaded:
            return "Restart such a server with the base model of the adapters, unquantised."
        if reload_of(self._run) == RELOAD_COMMAND:
            return "`server_reload_command` must make a server serve {model}, and end when the old weights answer no more."
        return f"Serve {server_path(self._run, self._path)} ({expected}): `{self._serve_command()}`."

    def _pause(self, reasons: str) -> None:
        run, folder = self._run, server_path(self._run, self._path)
        pause(
            run,
            f"The run pauses until the servers have the weights that are to answer next, {folder}.\n{reasons}\nServe them "
            f"at {', '.join(self._client.urls)}, for instance with `{self._serve_command()}`. Then run the same command "
            f"again, or: spin-trl run {shlex.quote(str(run.directory.path))}",
        )

    def _serve_command(self) -> str:
        """Return a command that serves the model."""
        run, adapts = self._run, is_adapter(self._path)
        model = server_path(run, base_of(self._path) if adapts else self._path)
        command = ["vllm", "serve", model, "--generation-config", "vllm"]
        if (length := context_length(run)) is not None:
            command += ["--max-model-len", str(length)]
        if run.play.server_model and not adapts:
            command += ["--served-model-name", run.play.server_model]
        config = load_adapter_config(self._path) if adapts else run.peft_config
        if adapts or (reload_of(run) == RELOAD_LORA and config is not None):
            command += ["--enable-lora", "--max-lora-rank", str(lora_rank_for(getattr(config, "r", 1)))]
        if adapts:
            name = run.play.server_model or name_on_servers(run, self._path)
            command += ["--lora-modules", f"{name}={server_path(run, self._path)}"]
        return shlex.join(command)


def _weights_at(url: str, one: WeightsComparison, name: str) -> str:
    """Return a sentence about what a server's log-probs say."""
    numbers = f"over {counted(one.tokens, 'token')} of real responses, its log-probs are {one.in_words()}"
    if one.verdict == WeightsVerdict.UNSURE:
        others = ", ".join(one.unsure_of)
        return f"{url} serves {one.expected} or {others} as {name!r}, which can't be told apart: {numbers}."
    found = one.found if one.found != one.expected else None
    what = found or "none of the models that were compared"
    return f"{url} serves {what} as {name!r}, not {one.expected}: {numbers}."


def _for_manifest(compared: Iterable[WeightsComparison]) -> dict[str, Any]:
    """Return the result of a comparison for a manifest, without addresses: a manifest may be published."""
    every = [*compared]
    found: dict[str, Any] = {
        "expected": every[0].expected,
        "tokens": every[0].tokens,
        "apart": {name: round(apart, 6) for name, apart in every[0].apart.items()},
        "servers": [{"verdict": str(one.verdict), "nats_a_token": one.as_entry()} for one in every],
    }
    return found


def _adapts(run: Run) -> bool:
    """Return whether the run trains adapters."""
    if run.peft_config is not None:
        return True
    if run.given is not None:
        return has_adapter(run.given)
    return run.model is not None and is_adapter(str(run.model))


def _key(variable: str) -> ServerKey:
    """Return the key in an environment variable.

    Raises:
        RecipeError: if this is not the name of one, or another than the default is named but not set.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise RecipeError(
            "`server_key_variable` is not the name of an environment variable. It names the variable that holds the key; "
            "the key itself belongs in the environment."
        )
    key = ServerKey.from_environment(variable)
    if not key and variable != KEY_VARIABLE:
        raise RecipeError(f"`server_key_variable` is {variable!r}, which is not set in the environment.")
    return key
