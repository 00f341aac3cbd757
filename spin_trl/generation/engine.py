"""The interface between the loop and engines: token ids of prompts in, token ids of responses and finish reasons out."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Literal, Protocol, TypeAlias

from ..config.engines import AUTO, TRANSFORMERS
from ..config.iteration import SPINConfig
from ..errors import RecipeError, SpinError, nearest
from ..models.adapters import Policy
from . import engines


@dataclass(frozen=True)
class Sampling:
    """The settings of sampling, all of which are part of a run's identity.

    Attributes:
        temperature: temperature of sampling; 0 decodes greedily.
        top_p: probability mass that nucleus sampling keeps, in (0, 1].
        top_k: number of most likely tokens to sample from; 0 for all.
        max_new_tokens: maximum tokens of a response, or None for no separate limit.
        max_length: maximum tokens of a prompt and its response together, or None.
        num_generations: responses per prompt.
        batch_size: responses that are sampled together.
        seed: seed that every micro-batch's own seed is derived from.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int | None
    max_length: int | None
    num_generations: int
    batch_size: int
    seed: int

    @classmethod
    def from_args(cls, args: SPINConfig) -> Sampling:
        """Return the sampling settings of an iteration."""
        same = {field.name: getattr(args, field.name) for field in fields(cls) if field.name != "batch_size"}
        return cls(**same, batch_size=args.answers_at_once)

    def limit(self, prompt_length: int) -> int:
        """Return the maximum tokens of the response to a prompt of this many tokens, at least 1."""
        bounds = [self.max_new_tokens] if self.max_new_tokens is not None else []
        if self.max_length is not None:
            bounds.append(self.max_length - prompt_length)
        return max(min(bounds), 1) if bounds else 1024


class UnansweredError(SpinError, RuntimeError):
    """An engine has not answered some prompts, although it was asked to.

    Args:
        message: message with the reason.
        numbers: numbers of their micro-batches.
    """

    def __init__(self, message: str, numbers: Sequence[int]) -> None:
        super().__init__(message)
        self.numbers = list(numbers)


@dataclass(frozen=True)
class Response:
    """A sampled response.

    Attributes:
        ids: its token ids, with EOS if and only if EOS was sampled.
        finish_reason: why it ended.
        is_split: whether its micro-batch did not fit in memory and was sampled in halves: with more memory it would have
            been another response.
    """

    ids: list[int]
    finish_reason: Literal["eos", "length"]
    is_split: bool = False


@dataclass(frozen=True)
class MicroBatch:
    """Prompts that are answered together.

    Attributes:
        number: number of the micro-batch, by which its responses are recognised.
        prompts: token ids of the prompts, one response each.
        seed: seed of this micro-batch.
    """

    number: int
    prompts: Sequence[Sequence[int]]
    seed: int


FinishedBatches: TypeAlias = Generator[tuple[int, list[Response]], None, None]
"""Numbers of micro-batches and their responses, as they are finished."""


class Engine(Protocol):
    """The interface of an engine, which generates responses.

    Attributes:
        name: value of the setting `engine`.
        version: version of the software that generates.
        repeats: whether the same micro-batch always gets the same responses, on one kind of device. Otherwise what has
            been stored is final.
    """

    name: str
    version: str
    repeats: bool

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample one response to each prompt. Closing the generator cancels what is in progress.

        Args:
            batches: the work. An engine may take several before it yields the first one's responses.
            sampling: settings of sampling.

        Yields:
            The number of a micro-batch and its responses in the order of its prompts, as micro-batches are finished; they
            may be finished in another order than they were given.
        """
        ...


MakeEngine = Callable[[Policy, Sequence[int], int, Callable[[], AbstractContextManager[object]]], Engine]
"""The `ENGINE` of a module of [`generation.engines`]: it returns the engine that generates with a model.

Its arguments: the unwrapped model, on the device where it is to generate; the ids of all tokens that end a response; the id
of the token that pads prompts; and a function that returns the context to run the model in, for mixed precision.
"""


def engine_names() -> list[str]:
    """Return the names that the setting `engine` accepts: `auto`, and the modules of [`generation.engines`]."""
    return sorted([AUTO, *(module.name for module in pkgutil.iter_modules(engines.__path__))])


def check_engine(name: str) -> None:
    """Raise if there is no engine of this name.

    Raises:
        RecipeError: if there is none.
    """
    known = engine_names()
    if name not in known:
        raise RecipeError(f"`engine` is {name!r}; known are {', '.join(known)}{nearest(name, known)}")


def engine_of(name: str) -> MakeEngine:
    """Return the engine of this name, which generates with a model in memory; for `auto`, that is `transformers`.

    Raises:
        RecipeError: if there is none, or it generates in processes of its own.
    """
    check_engine(name)
    name = TRANSFORMERS if name == AUTO else name
    made: MakeEngine | None = getattr(importlib.import_module(f"{engines.__name__}.{name}"), "ENGINE", None)
    if made is None:
        raise RecipeError(
            f"`engine: {name}` generates in processes of its own, which need a run (`spin-trl run`, `SelfPlay`). A trainer "
            "alone uses `engine: transformers`."
        )
    return made


def micro_batch_seed(seed: int, iteration: int, micro_batch: int) -> int:
    """Return a seed for one micro-batch that does not depend on which process works on it, or when."""
    name = f"{seed}/{iteration}/{micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
