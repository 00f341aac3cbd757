"""A model of a run, at hand while it answers or is measured: loaded in this process, or served by an engine of its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from accelerate import Accelerator
from datasets import Dataset

from ...config.engines import TRANSFORMERS
from ...config.server import SERVER
from ...errors import RecipeError
from ...generation.answer import Asked, check_logits, engine_for
from ...generation.completions.weights import Logprobs
from ...generation.engine import Engine
from ...generation.engines.server import ServerEngine
from ...generation.store import GenerationStore
from ...models.adapters import Policy
from ...models.digest import digest
from ...models.logps import token_logps
from ...models.policy import load_policy
from ...run.run import Run, free_memory
from ...training.start_logps import PromptAndResponse, scoring_batch
from .given_servers import ask_servers
from .known_weights import ComparedPairs
from .served import Served, serve

Scores = TypeVar("Scores")


class ModelAtHand:
    """A model of the run. Calling it returns the model on this process's device, loaded at the first call.

    An engine that generates in processes of its own has the device to itself: it is ended before the model is loaded here,
    and started only while the model isn't.

    Args:
        run: the run.
        path: folder or Hub name of the model.
    """

    def __init__(self, run: Run, path: str) -> None:
        self._run, self._path = run, path
        self._loaded: tuple[Policy, Accelerator] | None = None
        self._digest: str | None = None
        self._served: Served | ServerEngine | None = None
        self._serving = contextlib.ExitStack()
        self.is_served = run.args.engine != TRANSFORMERS or run.play.generation_continuous
        """Whether the model answers in processes of its own, which one process asks."""

    def __call__(self) -> tuple[Policy, Accelerator]:
        """Return the model in evaluation mode, and the accelerator that provides its mixed precision."""
        self._end_serving()
        if self._loaded is None:
            accelerator = self._accelerator()
            model = load_policy(self._path, self._run.args, self._run.quantization_config)
            if self._run.quantization_config is None:
                model = model.to(accelerator.device)
            self._loaded = model.eval(), accelerator
        return self._loaded

    def scored(self, scorer: Callable[..., Scores], responses: Sequence[PromptAndResponse]) -> Scores:
        """Apply a function that computes log-probabilities of responses, such as [`token_logps`], as training computes them.

        Args:
            scorer: function of a model, token ids of prompts and responses, `pad_token_id`, `batch_size` and `autocast`.
            responses: token ids of prompts and responses.
        """
        model, accelerator = self()
        return scorer(
            model,
            responses,
            pad_token_id=self._run.tokenizer().pad_token_id,
            batch_size=scoring_batch(self._run.args),
            autocast=accelerator.autocast,
        )

    def asked(self, rows: Dataset) -> Asked:
        """Return the identity of the model's answers to prepared rows.

        Raises:
            DivergedError: if the model is served, and its logits are NaN: its servers would fail, or answer with anything.
        """
        template, definition = self._run.template(), self._run.definition
        if self.is_served:
            if self._digest is None:
                model, accelerator = self()
                check_logits(model, accelerator, rows[0]["prompt_ids"])
                self._digest = digest(model, definition=definition)
                del model
                self.free()  # the device's memory is for the engine
            return Asked.with_digest(self._digest, rows, template, definition)
        model, _ = self()
        return Asked.of(model, rows, template, definition)

    def engine(self, rows: Dataset, store: GenerationStore) -> Engine:
        """Return the engine that answers with this model; it is started if it generates in processes of its own.

        Args:
            rows: prepared rows.
            store: store that the responses are written to.

        Raises:
            DivergedError: if the model's logits are NaN.
            LaunchError: if the engine can't be started.
            CompletionsError, PausedError: if servers that exist already can't answer, or have to be given the weights.
        """
        template = self._run.template()
        if not self.is_served:
            model, accelerator = self()
            return engine_for(model, rows, store, template, self._run.args, accelerator)
        if self._served is None:
            self._loaded = None
            free_memory()
            if self._run.args.engine == SERVER:
                score = functools.partial(_logprobs_under, self._run)
                self._served = ask_servers(self._run, self._path, template.eos_ids, score)
            else:
                self._served = self._serving.enter_context(serve(self._run, self._path, template.eos_ids))
        return self._served

    def free(self) -> None:
        """End the engine, and free the model's memory."""
        self._end_serving()
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def _end_serving(self) -> None:
        self._served = None
        self._serving.close()

    def _accelerator(self) -> Accelerator:
        try:
            return Accelerator(mixed_precision=self._run.args.mixed_precision, cpu=self._run.args.use_cpu)
        except ValueError as error:
            raise RecipeError(
                f"accelerate can't be set up here: {error}. Correct the settings, or the environment variables whose names "
                "begin with ACCELERATE_."
            ) from error


@contextlib.contextmanager
def at_hand(run: Run, path: str) -> Iterator[ModelAtHand]:
    """Give a model of the run, which is loaded or served at most once at a time, and freed when the context ends."""
    model = ModelAtHand(run, path)
    try:
        yield model
    finally:
        model.free()


def _logprobs_under(run: Run, path: str, pairs: ComparedPairs) -> Logprobs:
    """Return the log-probs of responses' tokens under a model of the run, which is loaded for that alone.

    Raises:
        DivergedError: if the model's logits are NaN.
    """
    with at_hand(run, path) as policy:
        check_logits(*policy(), pairs[0][0])
        return policy.scored(token_logps, pairs)
