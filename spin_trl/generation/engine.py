"""The contract between the loop and whatever generates: token ids in, token ids and the reason why they ended out."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from ..config.iteration import SPINConfig
from ..errors import RecipeError, nearest
from ..models.adapters import Policy
from . import engines


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled. All of it is part of a run's identity.

    Attributes:
        temperature: 0 decodes greedily.
        top_p: mass that nucleus sampling keeps, in (0, 1].
        top_k: most likely tokens to sample among; 0 for all.
        max_new_tokens: tokens that a response may have, or None for no bound of its own.
        max_length: tokens that a prompt and its response may have together, or None.
        num_generations: responses per prompt.
        batch_size: responses that are sampled together.
        seed: from which every micro-batch gets its own.
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
        """The sampling settings of an iteration, which has them by the same names."""
        same = {field.name: getattr(args, field.name) for field in fields(cls) if field.name != "batch_size"}
        return cls(**same, batch_size=args.generation_batch_size)

    def limit(self, prompt_length: int) -> int:
        """Tokens that the response to a prompt of this many tokens may have, at least 1."""
        bounds = [self.max_new_tokens] if self.max_new_tokens is not None else []
        if self.max_length is not None:
            bounds.append(self.max_length - prompt_length)
        return max(min(bounds), 1) if bounds else 1024


@dataclass(frozen=True)
class Response:
    """One sampled response: its token ids, with EOS if and only if EOS was sampled, and why it ended."""

    ids: list[int]
    finish_reason: Literal["eos", "length"]


class Engine(Protocol):
    """What generates."""

    name: str

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Response]:
        """Sample one response to each prompt.

        Args:
            prompts: token ids of the prompts.
            sampling: how to sample.
            seed: of this micro-batch. The same prompts, settings and seed give the same responses.
        """
        ...


MakeEngine = Callable[[Policy, Sequence[int], int, Callable[[], AbstractContextManager[object]]], Engine]
"""What a module of [`generation.engines`] has as its `ENGINE`: it returns the engine that lets a model answer.

The model is whole, on the device where it is to answer. The ids are all that end a response, and the one that fills up
prompts. The function gives the context in which the model runs, for mixed precision.
"""


def engine_names() -> list[str]:
    """The names that the setting `engine` may have: the modules of [`generation.engines`]."""
    return sorted(module.name for module in pkgutil.iter_modules(engines.__path__))


def check_engine(name: str) -> None:
    """Raise if there is no engine of this name.

    Raises:
        RecipeError: there is none.
    """
    known = engine_names()
    if name not in known:
        raise RecipeError(f"`engine` is {name!r}; known are {', '.join(known)}{nearest(name, known)}")


def engine_of(name: str) -> MakeEngine:
    """The engine of this name.

    Raises:
        RecipeError: there is none.
    """
    check_engine(name)
    made: MakeEngine = importlib.import_module(f"{engines.__name__}.{name}").ENGINE
    return made


def micro_batch_seed(seed: int, iteration: int, micro_batch: int) -> int:
    """A seed for one micro-batch, independent of which process works on it, and when."""
    name = f"{seed}/{iteration}/{micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
