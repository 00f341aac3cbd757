"""Generate a model's answers to a dataset's prompts in fixed micro-batches, shared among processes and resumable.

The rows and the seed of each micro-batch depend only on the data and the settings. So one process and eight generate the
same answers, and so does a run that was killed and restarted.
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
from .engine import Engine, MicroBatch, Sampling, engine_of, micro_batch_seed
from .store import GenerationStore, Manifest

SHARD_RESPONSES = 256
"""Approximate maximum number of responses written together, which is what an interrupt can cost a process."""

MIN_SHARDS = 64
"""Number of shards to aim for, so that every process of a large launch has work."""

OnProgress = Callable[[int, int, int], None]
"""A function called with the responses done, the responses in total, and the tokens generated in this call."""


@dataclass(frozen=True)
class Task:
    """A response to generate: the row it answers, and its sample number."""

    row: int
    sample: int


@dataclass(frozen=True)
class Asked:
    """The identity of generations: digests of the data, the template and the model.

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
        """Return the digests for a model that answers prepared rows.

        Args:
            model: unwrapped, unsharded model.
            rows: prepared rows.
            template: template of the rows.
            definition: number of the digests' definition.
            is_new: whether the model's adapter is untrained, so that it answers as its base model does.
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
    """Return the engine for trainer, generate phase and evaluation; if there is work to do, check the model's logits first.

    Args:
        model: unsharded model on its device.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: store that the responses are written to.
        template: template of the rows; gives the EOS ids and the pad token for prompts.
        args: settings that name the engine.
        accelerator: provides the mixed precision to run the model in.

    Raises:
        DivergedError: if the model's logits are NaN.
    """
    prompts = rows["prompt_ids"] if not store.is_complete() else []
    for prompt in (prompts[0], max(prompts, key=len)) if prompts else ():
        check_logits(model, accelerator, prompt)
    return engine_of(args.engine)(model, template.eos_ids, template.tokenizer.pad_token_id, accelerator.autocast)


def check_logits(model: Policy, accelerator: Accelerator, prompt: Sequence[int]) -> None:
    """Check the logits for one prompt: on a GPU, sampling from NaN logits kills the process and everything it holds.

    Raises:
        DivergedError: if the model's logits are NaN.
    """
    with torch.inference_mode(), accelerator.autocast():
        logits = model(input_ids=torch.tensor([prompt], device=model.device)).logits[:, -1]
    # Minus infinity is fine: it means a probability of zero.
    if logits.isnan().any() or logits.isposinf().any() or not logits.isfinite().any():
        weights = non_finite_in_words(model)
        because = f"its weights hold NaN or infinity, in {weights}" if weights else "though its weights are all finite"
        raise DivergedError(
            f"The model can't generate, because its logits are NaN: {because}. If self-play trained it, its training has "
            "diverged: a smaller `learning_rate`, a larger `beta` or a smaller `max_grad_norm` may prevent that in the next "
            "attempt. If it is the start of a run, use another checkpoint"
            + ("." if weights else ", or compute in bfloat16 or float32 (`bf16`, `fp16`, `dtype`).")
        )


def micro_batches(lengths: Sequence[int], num_generations: int, batch_size: int) -> list[list[Task]]:
    """Return fixed micro-batches of prompts of similar length.

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
    lr_scale: float | None = None,
    disable_progress: bool = False,
    description: str = "Generating",
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Answer every prompt of `rows` into `store`, skipping what the store already holds.

    Under several processes, each generates its share of the shards, and all return when all are done.

    Args:
        engine: engine that generates.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: store that the responses are written to.
        sampling: settings of sampling.
        asked: identity of the generations.
        iteration: 0-based; part of every micro-batch's seed.
        opponent: stage of the run whose model answers, for the store's manifest.
        lr_scale: factor on the learning rate of the iteration that is trained on the answers, for the manifest.
        disable_progress: show no progress bar.
        description: text of the progress bar.
        on_progress: called with this process's progress.

    Raises:
        GenerationsError: if the store holds generations with a different manifest.
        OSError: if the disk is full; all finished shards are kept.
    """
    # Long, since the processes' shares, the shards and the progress use the same numbers.
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
        lr_scale=lr_scale,
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
            work = (
                MicroBatch(
                    micro_batch,
                    [rows[task.row]["prompt_ids"] for task in tasks],
                    micro_batch_seed(sampling.seed, iteration, micro_batch),
                )
                for micro_batch, tasks in shards[number]
            )
            tasks_of, responses = dict(shards[number]), []
            for micro_batch, answers in engine.generate(work, sampling):
                tasks = tasks_of[micro_batch]
                for task, answer in zip(tasks, answers, strict=True):
                    responses.append((rows[task.row]["key"], task.sample, answer))
                tokens += sum(len(answer.ids) for answer in answers)
                progress.update(len(tasks))
                done += len(tasks)
                on_progress(done, total, tokens)
                progress.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s")
            store.write_shard(number, responses)
    if torch.distributed.is_initialized():
        # If one process fails, the others must not report success.
        state.wait_for_everyone()
