"""Settles `generation_batch_size: auto`: computes the number before a run's first responses, and freezes it in the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ...config.iteration import AUTO_BATCH, GENERATION_BATCH, SPINConfig
from ...errors import RunDirectoryError
from ...generation.batch_size import RowMemory, bytes_per_logit, longest_rows
from ...generation.engine import Sampling
from ...models.adapters import Policy, without_adapter
from ...plan.rehearsal import LiveTensors
from ...report import terminal
from ...run.run import Run
from ...run.settings import freeze_batch_size, frozen_batch_size
from .at_hand import ModelAtHand

LONGER_PROMPT = 64
"""Tokens by which a longer prompt is more than twice as long, so that the growth of a short one can be measured, too."""


def settle_batch_size(run: Run, model: ModelAtHand, *, is_alone: bool = True) -> None:
    """Replace `generation_batch_size: auto` by a number, unless the run has one; all processes call this, and agree.

    On a GPU it is what fits with the model loaded, on the process with the least free memory. Elsewhere, and for engines
    that schedule responses themselves, it is the default.

    Args:
        run: the run, whose settings are changed, in memory and in its directory.
        model: the model that is about to answer.
        is_alone: whether no other machine may be generating for this run at the same time.

    Raises:
        RunDirectoryError: if other machines may be computing another number.
    """
    if run.args.generation_batch_size != AUTO_BATCH:
        return
    run.args.generation_batch_size = frozen_batch_size(run.directory)
    if run.args.generation_batch_size != AUTO_BATCH:
        return
    if not is_alone:
        raise RunDirectoryError(
            f"`generation_batch_size: {AUTO_BATCH}` is not computed yet, and several machines need the same number. Play "
            f"the run up to its first generate phase: `spin-trl run {run.directory.path} --until generate`."
        )
    size, why = GENERATION_BATCH, "no GPU's memory decides"
    if not model.is_served:
        policy, accelerator = model()
        if accelerator.device.type == "cuda":
            longest = longest_rows(run.answered_rows(), Sampling.from_args(run.args))
            fitting = batch_size_on_gpu(policy, accelerator.autocast, run.args, *longest)
            size, why = min(gather_object([fitting])), "as many of the longest responses fit in the GPU's memory"
    run.args.generation_batch_size = size
    if PartialState().is_main_process:
        freeze_batch_size(run.directory, size)
        line = f"`generation_batch_size: {AUTO_BATCH}` is {size}: {why}. The run keeps this number."
        terminal.tell(terminal.console(), line)


def batch_size_on_gpu(
    model: Policy,
    autocast: Callable[[], AbstractContextManager[object]],
    args: SPINConfig,
    longest_prompt: int,
    longest_answer: int,
) -> int:
    """Return the number of responses that fit in a GPU's memory together.

    Args:
        model: the model, on the GPU.
        autocast: returns the context that the model runs in.
        args: settings of sampling.
        longest_prompt: tokens of the longest prompt.
        longest_answer: tokens of the longest prompt with its response.
    """
    try:
        need = row_memory(model, autocast, args, longest_prompt, longest_answer)
    except torch.OutOfMemoryError:
        return 1
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    return need.largest_batch(free)


def row_memory(
    model: Policy,
    autocast: Callable[[], AbstractContextManager[object]],
    args: SPINConfig,
    longest_prompt: int,
    longest_answer: int,
) -> RowMemory:
    """Measure the memory of generation on this model: the bytes of all tensors of prompts, and of one token after them.

    A second row shows what a row takes, and a longer prompt how that grows. It holds for any architecture, on any device.
    The arguments are those of [`batch_size_on_gpu`].
    """
    longer = min(longest_answer, 2 * longest_prompt + LONGER_PROMPT)
    (one, one_next), (two, two_next) = (_peaks(model, autocast, rows, longest_prompt) for rows in (1, 2))
    (_, one_later), (_, two_later) = (_peaks(model, autocast, rows, longer) for rows in (1, 2))
    of_row, later = two_next - one_next, two_later - one_later
    # The cache, and the copies of a layer's part of it, grow with every token.
    growth = max(later - of_row, 0) / (longer - longest_prompt)
    grown = of_row + growth * (longest_answer - longest_prompt)
    head: Any = without_adapter(model).get_output_embeddings()
    filters = args.top_p < 1 or args.top_k > 0
    return RowMemory.of_two(one, two, grown + head.weight.shape[0] * bytes_per_logit(filters=filters))


def _peaks(
    model: Policy, autocast: Callable[[], AbstractContextManager[object]], rows: int, length: int
) -> tuple[int, int]:
    """Return the bytes at the peak of running prompts, and of the first token after them with what is cached."""
    callable_model: Any = model
    ids = torch.zeros(rows, length, dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    mask[:, : min(length - 1, 1)] = 0  # as for prompts of different lengths: attention needs its mask
    accepts_last = "logits_to_keep" in inspect.signature(without_adapter(model).forward).parameters
    last: dict[str, Any] = {"logits_to_keep": 1} if accepts_last else {}
    with LiveTensors([*model.parameters(), *model.buffers()], 0) as live, torch.inference_mode(), autocast():
        output = callable_model(input_ids=ids, attention_mask=mask, use_cache=True, **last)
        at_prompt, live.peak = live.peak, live.live
        mask = torch.cat([mask, mask[:, -1:]], dim=1)
        cache = {name: getattr(output, name, None) for name in ("past_key_values", "cache_params")}
        cache = {name: value for name, value in cache.items() if value is not None}
        callable_model(input_ids=ids[:, -1:], attention_mask=mask, use_cache=True, **cache, **last)
        return at_prompt, live.peak
