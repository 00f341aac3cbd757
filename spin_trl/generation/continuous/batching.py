"""The engine that generates with the weights in memory by transformers' own continuous batching.

`generate_batch` logs failed requests and leaves out missing ones, so the manager behind it is used directly.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.generation import ContinuousBatchingConfig, ContinuousBatchingManager

from ...counts import counted
from ...errors import RecipeError
from ...models.adapters import Policy, without_adapter
from ..engine import FinishedBatches, MicroBatch, Response, Sampling, UnansweredError
from ..engines.transformers import prepared

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import GenerationOutput

CONTINUOUS_LAYERS = ("full_attention", "sliding_attention")
"""Kinds of layers (`layer_types`) that transformers can compute in continuous batches."""

PAGE_ON_CPU = 32
"""Tokens of a page of the cache on a CPU. On a GPU, transformers chooses."""

_SECONDS_TO_STOP = 60.0


@dataclass
class ContinuousEngine:
    """Generates with the weights in memory, on their device.

    The same request can get another response, since the numbers depend on the requests that are computed with it.

    Args:
        model: causal language model, or a PEFT model around one, in the number format to compute in.
        eos_token_ids: ids of all tokens that end a response.
        pad_token_id: id of the token that pads prompts; nothing is padded here.
        at_once: maximum number of responses of the micro-batches in progress.
        longest: tokens of the longest prompt with its response, for the cache on a CPU. On a GPU, transformers takes most of
            the memory that is free.
    """

    model: Policy
    eos_token_ids: Sequence[int]
    pad_token_id: int
    at_once: int = 256
    longest: int = 2048
    name: str = "transformers"
    version: str = transformers.__version__
    repeats: bool = False

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample the responses to each prompt in any order (see [`Engine`]).

        Raises:
            RecipeError: if the model's attention can't be computed in continuous batches.
            UnansweredError: if a request fails or has no result, after everything that was finished has been yielded.
        """
        waiting = iter(batches)
        first = next(waiting, None)
        if first is None:
            return
        with (
            prepared(self.model, sampling, self.eos_token_ids, self.pad_token_id),
            self._manager(first.seed) as manager,
        ):
            yield from _Requests(manager, sampling, frozenset(self.eos_token_ids)).finished(
                itertools.chain([first], waiting), self.at_once
            )

    @contextlib.contextmanager
    def _manager(self, seed: int) -> Iterator[ContinuousBatchingManager]:
        """Give a running manager. Afterwards what is in progress is cancelled, and its memory is given back."""
        inner: Any = without_adapter(self.model)
        random = torch.random.get_rng_state()  # the manager sets a seed
        try:
            manager: ContinuousBatchingManager = inner.init_continuous_batching(
                generation_config=self.model.generation_config, continuous_batching_config=self._config(seed)
            )
        except ValueError as error:
            raise RecipeError(
                f"`generation_continuous: true` can't be used with this model: {error} Leave it out, or choose another "
                "`attn_implementation`."
            ) from error
        try:
            manager.warmup()  # captures CUDA graphs at their largest sizes first, so that all fit in their pool
            manager.start()
            yield manager
        finally:
            manager.stop(block=True, timeout=_SECONDS_TO_STOP, hard_stop=True)
            manager.destroy()
            torch.random.set_rng_state(random)

    def _config(self, seed: int) -> ContinuousBatchingConfig:
        sizes: dict[str, Any] = {}
        if self.model.device.type != "cuda":  # by default the cache would take most of the machine's memory
            blocks = self.at_once * (-(-self.longest // PAGE_ON_CPU) + 1)
            sizes = {"page_size": PAGE_ON_CPU, "num_blocks": blocks, "max_batch_tokens": max(self.at_once, 256)}
        return ContinuousBatchingConfig(
            seed=seed,
            max_requests_per_batch=self.at_once,
            # The attention that the settings name; another would be downloaded.
            auto_switch_to_flash=False,
            drop_unsupported_processors=False,
            **sizes,
        )


@dataclass
class _Request:
    batch: int
    place: int
    prompt: list[int]
    limit: int


@dataclass
class _Requests:
    """The requests of micro-batches at a manager, each recognised by its name."""

    manager: ContinuousBatchingManager
    sampling: Sampling
    eos_token_ids: frozenset[int]
    _pending: dict[str, _Request] = field(default_factory=dict)
    _found: dict[int, dict[int, Response]] = field(default_factory=dict)
    _failed: dict[int, str] = field(default_factory=dict)

    def finished(self, batches: Iterator[MicroBatch], at_once: int) -> FinishedBatches:
        """Ask for all prompts, and yield micro-batches as they are finished. After a failure, nothing more is asked for."""
        sizes: dict[int, int] = {}
        more = True
        while more or self._pending:
            # Micro-batches are taken as long as there is room, so whoever sends them need not know which requests are done.
            while more and not self._failed and sum(sizes.values()) < at_once:
                batch = next(batches, None)
                if batch is None:
                    more = False
                else:
                    sizes[batch.number] = len(batch.prompts)
                    self._ask(batch)
            more = more and not self._failed
            if not self._pending:
                continue
            result = self._next_result()
            if result is None:
                break
            number = self._take(result)
            if number is not None and len(self._found[number]) == sizes[number]:
                del sizes[number]
                yield number, [response for _, response in sorted(self._found.pop(number).items())]
        for request in self._pending.values():
            self._failed.setdefault(request.batch, "its result is missing")
        if self._failed:
            numbers = sorted(self._failed)
            reason = self._failed[numbers[0]]
            advice = " A smaller `generation_concurrency` takes less memory." if "memory" in reason.lower() else ""
            asked = counted(len(numbers), "prompt")
            raise UnansweredError(
                f"transformers' continuous batching has not answered {asked} ({reason}).{advice}", numbers
            )

    def _ask(self, batch: MicroBatch) -> None:
        self._found[batch.number] = {}
        for place, prompt in enumerate(batch.prompts):
            request = _Request(batch.number, place, list(prompt), self.sampling.limit(len(prompt)))
            name = f"{batch.number}/{place}"
            self._pending[name] = request
            self.manager.add_request(request.prompt, request_id=name, max_new_tokens=request.limit)

    def _next_result(self) -> GenerationOutput | None:
        """Wait for a result. None if the manager's thread has ended and there is none."""
        while True:
            is_running = self.manager.is_running()  # first: the thread's last results come before it ends
            result = self.manager.get_result(timeout=1.0 if is_running else 0.01)
            if result is not None or not is_running:
                return result

    def _take(self, result: GenerationOutput) -> int | None:
        """Keep a result. Return the number of its micro-batch; None if it is an error."""
        request = self._pending.pop(result.request_id)
        ids = list(result.generated_tokens)
        is_ended = bool(ids) and ids[-1] in self.eos_token_ids
        wrong = result.error
        if wrong is None and result.prompt_ids != request.prompt:
            wrong = "its result belongs to another prompt"
        if wrong is None and not is_ended and len(ids) != request.limit:
            wrong = f"its response ended after {len(ids)} of {request.limit} tokens, without an end token"
        if wrong is not None:
            self._failed.setdefault(request.batch, wrong)
            return None
        self._found[request.batch][request.place] = Response(ids, "eos" if is_ended else "length")
        return request.batch
