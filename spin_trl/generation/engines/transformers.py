"""The engine that only needs the model in memory: transformers' `generate`, in chunks.

A batch that runs until its longest answer ends spends most of its work on rows that ended long ago. Here `generate` runs for
a few tokens at a time; between chunks, finished rows are dropped from the batch and from its key-value cache.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import transformers
from transformers import Cache, GenerationConfig
from transformers.cache_utils import DynamicCache

from ...counts import counted
from ...models.adapters import Policy, without_adapter
from ...models.loading import loading
from ..engine import FinishedBatches, MicroBatch, Response, Sampling, micro_batch_seed

logger = logging.getLogger(__name__)


@dataclass
class TransformersEngine:
    """Generates with the weights in memory, on their device.

    Args:
        model: causal language model, or a PEFT model around one.
        eos_token_ids: ids of all tokens that end a response.
        pad_token_id: id of the token that pads prompts on the left.
        autocast: returns the context to run the model in, for mixed precision.
        chunk_size: new tokens between checks for finished rows. Small chunks drop rows earlier, large ones call `generate`
            less often.
    """

    model: Policy
    eos_token_ids: Sequence[int]
    pad_token_id: int
    autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    chunk_size: int = 16
    name: str = "transformers"
    version: str = transformers.__version__
    repeats: bool = True
    useful_tokens: int = field(default=0, init=False)
    computed_tokens: int = field(default=0, init=False)
    """Total tokens sampled, including those after a row's EOS; `useful_tokens` divided by this is the live share."""

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample one response to each prompt, in the order of the micro-batches (see [`Engine`])."""
        for batch in batches:
            yield batch.number, self.answer(batch.prompts, sampling, batch.seed)

    def answer(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Response]:
        """Sample one response to each prompt of one micro-batch. The global random state is restored.

        A micro-batch that does not fit in the GPU's memory is sampled in halves, each with a seed of its own.

        Args:
            prompts: token ids of the prompts.
            sampling: settings of sampling.
            seed: the same prompts, settings and seed give the same responses, unless memory runs out.

        Raises:
            torch.OutOfMemoryError: if a single prompt does not fit.
        """
        with contextlib.suppress(torch.OutOfMemoryError):
            return self._answer(prompts, sampling, seed)
        # Only now has the failed attempt let go of its tensors.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(prompts) == 1:
            return self._answer(prompts, sampling, seed)
        logger.warning(
            "A micro-batch of %s does not fit in memory and is generated in halves. A smaller `generation_batch_size` is "
            "faster, and gives the same responses on every device.",
            counted(len(prompts), "prompt"),
        )
        middle = len(prompts) // 2
        halves = [
            self.answer(half, sampling, micro_batch_seed(seed, 0, number))
            for number, half in enumerate((prompts[:middle], prompts[middle:]))
        ]
        return [replace(response, is_split=True) for half in halves for response in half]

    def _answer(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Response]:
        device = self.model.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.inference_mode(),
            prepared(self.model, sampling, self.eos_token_ids, self.pad_token_id),
            self.autocast(),
            _without_cudnns_attention(),
        ):
            torch.manual_seed(seed)
            return self._generate(prompts, sampling)

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        width = max(len(prompt) for prompt in prompts)
        limits = [sampling.limit(len(prompt)) for prompt in prompts]
        device = self.model.device
        ids = torch.tensor([[self.pad_token_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        # Models whose state is not a key-value cache (such as Mamba) run to the end of their longest response.
        in_chunks = not self.model._is_stateful
        cache: Cache | None = None
        if in_chunks:
            with loading("The key-value cache that the model's config.json describes", "built"):
                cache = DynamicCache(config=self.model.config)
            self._run_equal_prompts_once(prompts, ids, mask, cache)
        chunk_size = self.chunk_size if in_chunks else max(limits)
        responses: list[Response | None] = [None] * len(prompts)
        alive = list(range(len(prompts)))
        sampled: list[list[int]] = [[] for _ in prompts]
        model: Any = self.model  # every causal language model has `generate`, but this type does not
        while alive:
            steps = min(chunk_size, max(limits[row] - len(sampled[row]) for row in alive))
            output = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=steps)
            fresh = output[:, ids.shape[1] :]
            self.computed_tokens += fresh.numel()
            kept = []
            for position, (row, tokens) in enumerate(zip(alive, fresh.tolist(), strict=True)):
                sampled[row] += tokens
                responses[row] = self._finished(sampled[row], limits[row])
                if responses[row] is None:
                    kept.append(position)
            alive = [alive[position] for position in kept]
            if alive:
                index = torch.tensor(kept, device=ids.device)
                mask = torch.cat([mask, torch.ones_like(fresh)], dim=1)[index]
                ids = output[index]
                if cache is not None and len(kept) < fresh.shape[0]:
                    # Equals batch_select_indices, which layers with a convolution or recurrent state don't have.
                    # The parameter's type includes the dtype, which torch.tensor's return type does not.
                    cache.reorder_cache(cast(torch.LongTensor, index))
        done = [response for response in responses if response is not None]
        self.useful_tokens += sum(len(response.ids) for response in done)
        return done

    def _run_equal_prompts_once(
        self, prompts: Sequence[Sequence[int]], ids: torch.Tensor, mask: torch.Tensor, cache: Cache
    ) -> None:
        """Fill the cache with all but the last token of every prompt, if several samples of a prompt can share that.

        Each sample then begins with the prompt's last token.

        Args:
            prompts: token ids of the prompts.
            ids, mask: the same as a batch, shape (prompts, tokens).
            cache: empty cache.
        """
        numbers: dict[tuple[int, ...], int] = {}
        places = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
        if len(numbers) == len(prompts) or min(map(len, numbers)) < 2:
            return
        once = [places.index(number) for number in range(len(numbers))]
        model: Any = self.model
        devices = [ids.device] if ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # the token that `generate` samples after the prompts is not used
            model.generate(
                input_ids=ids[once, :-1], attention_mask=mask[once, :-1], past_key_values=cache, max_new_tokens=1
            )
        cache.reorder_cache(cast(torch.LongTensor, torch.tensor(places, device=ids.device)))

    def _finished(self, tokens: list[int], limit: int) -> Response | None:
        end = next((i for i, token in enumerate(tokens[:limit]) if token in self.eos_token_ids), None)
        if end is not None:
            return Response(tokens[: end + 1], "eos")
        return Response(tokens[:limit], "length") if len(tokens) >= limit else None


@contextlib.contextmanager
def prepared(model: Policy, sampling: Sampling, eos_token_ids: Sequence[int], pad_token_id: int) -> Iterator[None]:
    """Put a model in evaluation mode, with these settings in its generation config and none of its own.

    Args:
        model: model that will generate.
        sampling: settings of sampling.
        eos_token_ids: ids of all tokens that end a response.
        pad_token_id: id of the token that pads prompts.
    """
    # PEFT copies its generation config to the inner model and would leave it there.
    inner = without_adapter(model)
    was_training, own_config = model.training, inner.generation_config
    names = ("temperature", "top_p", "top_k") if sampling.temperature > 0 else ()
    settings = {name: getattr(sampling, name) for name in names}
    router_logits = getattr(model.config, "output_router_logits", False)
    if router_logits:  # a mixture of experts' auxiliary loss is only for training, and fails on padded prompts
        model.config.output_router_logits = False
    model.generation_config = GenerationConfig(
        do_sample=sampling.temperature > 0,
        **settings,
        eos_token_id=list(eos_token_ids),
        pad_token_id=pad_token_id,
        bos_token_id=own_config.bos_token_id if own_config is not None else None,
    )
    model.eval()
    try:
        yield
    finally:
        model.generation_config = inner.generation_config = own_config
        if router_logits:
            model.config.output_router_logits = router_logits
        model.train(was_training)


@contextlib.contextmanager
def _without_cudnns_attention() -> Iterator[None]:
    """Make SDPA choose among its other enabled kernels.

    PyTorch prefers cuDNN's on recent GPUs. But that builds a plan for every new shape, which takes tens of milliseconds, and
    every new token makes the keys one longer.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


ENGINE = TransformersEngine
