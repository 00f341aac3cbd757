"""Lets a model answer the prompts of a dataset: fixed micro-batches, shared among processes, resumed where they were
interrupted.

Which rows stand in which micro-batch, and with which seed, depends on the data and the settings alone. So one process and
eight make the same generations, and so does a run that was killed and started again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from tqdm.auto import tqdm

from ..config.iteration import SPINConfig
from ..data.keys import rows_digest
from ..data.template.pair_template import PairTemplate
from ..errors import DivergedError
from ..models.adapters import Policy
from ..models.digest import digest
from ..models.non_finite import non_finite_in_words
from .engine import Engine, Sampling, engine_of, micro_batch_seed
from .store import GenerationStore, Manifest

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


@dataclass(frozen=True)
class Asked:
    """What generations belong to: the digests of the data, the template and the model.

    Attributes:
        dataset, template, model: 16 hexadecimal digits, or two more (see [`files.numbered`]).
    """

    dataset: str
    template: str
    model: str

    @classmethod
    def of(
        cls, model: Policy, rows: Dataset, template: PairTemplate, definition: int, *, is_new: bool = False
    ) -> Asked:
        """The digests of a model that answers prepared rows.

        Args:
            model: whole, not wrapped.
            rows: prepared rows.
            template: of the rows.
            definition: number of the digests' definition.
            is_new: whether the model's adapter has not been trained: then it answers as its base model does.
        """
        of_model = digest(model, adapter_is_new=is_new, definition=definition)
        return cls(rows_digest(rows), template.digest(definition), of_model)


def engine_for(
    model: Policy,
    rows: Dataset,
    store: GenerationStore,
    template: PairTemplate,
    args: SPINConfig,
    accelerator: Accelerator,
) -> Engine:
    """What lets a model answer in trainer, generate phase and evaluation; where there is work, it is looked at first.

    Args:
        model: whole, on its device.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: where the responses go.
        template: of the rows; its ids end a response, and its tokenizer's pad token fills up prompts.
        args: settings that name the engine.
        accelerator: whose mixed precision the model runs in.

    Raises:
        DivergedError: the model's logits are NaN.
    """
    prompts = rows["prompt_ids"] if not store.is_complete() else []
    for prompt in (prompts[0], max(prompts, key=len)) if prompts else ():
        check_logits(model, accelerator, prompt)
    return engine_of(args.engine)(model, template.eos_ids, template.tokenizer.pad_token_id, accelerator.autocast)


def check_logits(model: Policy, accelerator: Accelerator, prompt: Sequence[int]) -> None:
    """Look at one prompt: sampling from logits that are NaN ends a process on a GPU, and with it all that it holds.

    Raises:
        DivergedError: the model's logits are NaN.
    """
    with torch.inference_mode(), accelerator.autocast():
        logits = model(input_ids=torch.tensor([prompt], device=model.device)).logits[:, -1]
    # Minus infinity is a probability of zero.
    if logits.isnan().any() or logits.isposinf().any() or not logits.isfinite().any():
        weights = non_finite_in_words(model)
        because = f"its weights hold NaN or infinity, in {weights}" if weights else "though its weights are all finite"
        raise DivergedError(
            f"The model's logits are NaN, and it can't answer: {because}. If self-play has trained it, its training has "
            "diverged: a smaller `learning_rate`, a larger `beta` or a smaller `max_grad_norm` may keep the next one from "
            "it. If a run is to start from it, take another checkpoint"
            + ("." if weights else ", or compute in bfloat16 or float32 (`bf16`, `fp16`, `dtype`).")
        )


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
    asked: Asked,
    *,
    iteration: int,
    opponent: str | None = None,
    disable_progress: bool = False,
    description: str = "Generating",
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Answer every prompt of `rows` into `store`; what the store already holds is not made again.

    Under several processes, each makes its share of the shards, and all return when all are done.

    Args:
        engine: what generates.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: where the responses go.
        sampling: how to sample.
        asked: what the generations belong to.
        iteration: 0-based; a part of every micro-batch's seed.
        opponent: stage of the run whose model answers, for the store's manifest.
        disable_progress: show no progress bar.
        description: of the progress bar.
        on_progress: told how far this process has come.

    Raises:
        GenerationsError: the store holds generations of something else.
        OSError: the disk is full; all finished shards are kept.
    """
    # Long, since the shares of the processes, the shards and the progress go by the same numbers.
    state = PartialState()
    lengths = [len(ids) for ids in rows["prompt_ids"]]
    batches = list(enumerate(micro_batches(lengths, sampling.num_generations, sampling.batch_size)))
    per_shard = max(min(SHARD_RESPONSES // sampling.batch_size, len(batches) // MIN_SHARDS), 1)
    shards = [batches[start : start + per_shard] for start in range(0, len(batches), per_shard)]
    manifest = Manifest(
        **dataclasses.asdict(asked),
        engine=engine.name,
        iteration=iteration,
        sampling=dataclasses.asdict(sampling),
        num_rows=len(rows),
        num_shards=len(shards),
        opponent=opponent,
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
                on_progress(done, total, tokens)
                progress.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s")
            store.write_shard(number, responses)
    if torch.distributed.is_initialized():
        # One process's failure must not look like success to the others.
        state.wait_for_everyone()
