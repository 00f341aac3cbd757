"""Answers the prompts of a dataset: fixed micro-batches, shared among processes, resumed where they were interrupted.

Which rows stand in which micro-batch, and with which seed, depends on the data and the settings alone. So one process and
eight make the same generations, and so does a run that was killed and started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm.auto import tqdm

from .engine import Engine, Sampling, micro_batch_seed
from .store import GenerationStore, Manifest, describe

SHARD_RESPONSES = 256
"""Most responses that are written together, about: what an interrupt can cost a process."""

MIN_SHARDS = 64
"""Shards to aim for, so that every process of a large launch has work."""

OnProgress = Callable[[int, int, int], None]
"""Called with the responses that are done, of how many, and the tokens that were generated in this call."""


@dataclass(frozen=True)
class Task:
    """One response to make: to which row, and which of its samples."""

    row: int
    sample: int


def micro_batches(lengths: Sequence[int], num_generations: int, batch_size: int) -> list[list[Task]]:
    """Fixed micro-batches of prompts of similar length.

    Args:
        lengths: tokens of every prompt.
        num_generations: responses per prompt.
        batch_size: responses per micro-batch.

    Returns:
        Micro-batches, shortest prompts first. Every response is in exactly one.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    tasks = [Task(row, sample) for row in order for sample in range(num_generations)]
    return [tasks[start : start + batch_size] for start in range(0, len(tasks), batch_size)]


def generate(
    engine: Engine,
    rows: Dataset,
    store: GenerationStore,
    sampling: Sampling,
    *,
    iteration: int,
    dataset_digest: str,
    template_digest: str,
    model_digest: str,
    disable_progress: bool = False,
    description: str = "Generating",
    on_progress: OnProgress | None = None,
) -> None:
    """Answer every prompt of `rows` into `store`; what the store already holds is not made again.

    Under several processes, each makes its share of the shards, and all return when all are done.

    Args:
        engine: what generates.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: where the responses go.
        sampling: how to sample.
        iteration: 0-based; a part of every micro-batch's seed.
        dataset_digest, template_digest, model_digest: what the generations belong to (see [`Manifest`]).
        disable_progress: show no progress bar.
        description: of the progress bar.
        on_progress: told how far this process has come.

    Raises:
        GenerationsError: the store holds generations of something else.
        OSError: the disk is full; all finished shards are kept.
    """
    state = PartialState()
    lengths = [len(ids) for ids in rows["prompt_ids"]]
    batches = list(enumerate(micro_batches(lengths, sampling.num_generations, sampling.batch_size)))
    per_shard = max(min(SHARD_RESPONSES // sampling.batch_size, len(batches) // MIN_SHARDS), 1)
    shards = [batches[start : start + per_shard] for start in range(0, len(batches), per_shard)]
    manifest = Manifest(
        dataset=dataset_digest,
        template=template_digest,
        model=model_digest,
        engine=engine.name,
        iteration=iteration,
        sampling=describe(sampling),
        num_rows=len(rows),
        num_shards=len(shards),
    )
    if state.is_main_process:
        store.open(manifest)
    state.wait_for_everyone()
    mine = list(range(state.process_index, len(shards), state.num_processes))
    todo = [number for number in mine if not store.has_shard(number)]
    done = sum(len(batch) for number in set(mine) - set(todo) for _, batch in shards[number])
    total = sum(len(batch) for number in mine for _, batch in shards[number])
    with tqdm(
        total=total,
        initial=done,
        desc=description,
        unit="answer",
        disable=disable_progress or not state.is_local_main_process or not todo,
    ) as progress:
        started, tokens = time.monotonic(), 0
        if on_progress is not None:
            on_progress(done, total, tokens)
        for number in todo:
            responses = []
            for micro_batch, tasks in shards[number]:
                prompts = [rows[task.row]["prompt_ids"] for task in tasks]
                answers = engine.generate(prompts, sampling, micro_batch_seed(sampling.seed, iteration, micro_batch))
                for task, answer in zip(tasks, answers, strict=True):
                    responses.append((rows[task.row]["key"], task.sample, answer))
                tokens += sum(len(answer.ids) for answer in answers)
                progress.update(len(tasks))
                done += len(tasks)
                if on_progress is not None:
                    on_progress(done, total, tokens)
                progress.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s")
            store.write_shard(number, responses)
    if torch.distributed.is_initialized():
        # One process's failure must not look like success to the others.
        state.wait_for_everyone()
