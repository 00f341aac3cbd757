"""Generate a model's answers to a dataset's prompts in fixed micro-batches, shared among processes and resumable.

The rows and the seed of each micro-batch depend only on the data and the settings. So one process and eight generate the
same answers, and so does a run that was killed and restarted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from .completions.failures import CompletionsError
from .engine import Engine, Sampling, UnansweredError, engine_of, micro_batch_seed
from .parts import GenerationPart
from .shards import OpenShards
from .store import GenerationStore, Manifest
from .work import GenerationWork

MOST_KEYS = 10
"""Maximum number of rows that an error names."""

OnProgress = Callable[[int, int, int], None]
"""A function called with the responses done, the responses in total, and the tokens generated in this call."""


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
        return cls.with_digest(digest(model, adapter_is_new=is_new, definition=definition), rows, template, definition)

    @classmethod
    def with_digest(cls, of_model: str, rows: Dataset, template: PairTemplate, definition: int) -> Asked:
        """Return the digests for a model whose own digest is known; the other arguments are those of [`Asked.of`]."""
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


def named_prompts(error: UnansweredError, rows: Dataset, work: GenerationWork) -> UnansweredError:
    """Return an engine's error with the keys of the rows whose prompts it has not answered."""
    unanswered = sorted({task.row for number in error.numbers for task in work.batches[number]})
    keys = rows.select(unanswered[:MOST_KEYS])["key"][:]
    named = ", ".join(keys) + (", ..." if len(unanswered) > MOST_KEYS else "")
    return UnansweredError(
        f"{error} Everything that was finished is kept; the same command asks for the others again. Keys of the "
        f"unanswered rows: {named}",
        error.numbers,
    )


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
    unquantised_base: bool = False,
    part: GenerationPart | None = None,
    served: Mapping[str, Any] | None = None,
    disable_progress: bool = False,
    description: str = "Generating",
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Answer every prompt of `rows` into `store`, skipping what the store already holds.

    Under several processes, each generates its share of the shards, and all return when all are done. An engine that does
    not repeat (see [`Engine`]) is asked by one process, which alone calls this.

    Args:
        engine: engine that generates.
        rows: prepared rows, with `key` and `prompt_ids`.
        store: store that the responses are written to.
        sampling: settings of sampling.
        asked: identity of the generations.
        iteration: 0-based; part of every micro-batch's seed.
        opponent: stage of the run whose model answers, for the store's manifest.
        lr_scale: factor on the learning rate of the iteration that is trained on the answers, for the manifest.
        unquantised_base: whether the engine generates with the unquantised base of a quantised model, for the manifest.
        part: part of the shards to generate, or None for all.
        served: what shows which weights servers have that exist already, for the manifest.
        disable_progress: show no progress bar.
        description: text of the progress bar.
        on_progress: called with this process's progress.

    Raises:
        GenerationsError: if the store holds generations with a different manifest.
        UnansweredError, CompletionsError: if prompts have no answer; all finished shards are kept.
        OSError: if the disk is full; all finished shards are kept.
    """
    state = PartialState()
    if not engine.repeats:  # such an engine schedules prompts itself, so a micro-batch is the samples of one prompt
        sampling = dataclasses.replace(sampling, batch_size=sampling.num_generations)
    work = GenerationWork.of(rows, sampling.num_generations, sampling.batch_size)
    manifest = Manifest(
        **dataclasses.asdict(asked),
        engine=engine.name,
        iteration=iteration,
        sampling=dataclasses.asdict(sampling),
        num_rows=len(rows),
        num_shards=work.num_shards,
        opponent=opponent,
        lr_scale=lr_scale,
        engine_version=engine.version,
        repeats=engine.repeats,
        unquantised_base=unquantised_base or None,
        served=None if served is None else dict(served),
    )
    if state.is_main_process:
        store.open(manifest)
    processes = state.num_processes if engine.repeats else 1
    if processes > 1:
        state.wait_for_everyone()
    shards_of_part = range(work.num_shards) if part is None else part.shards(work.num_shards)
    mine = shards_of_part[state.process_index :: processes]
    missing = set(store.missing_shards(part))
    shards = OpenShards(store, rows, work, [number for number in mine if number in missing])
    seed = functools.partial(micro_batch_seed, sampling.seed, iteration)
    total = work.responses_in(mine)
    # Without closing, an error here would leave an engine's requests in progress until it is handled.
    with (
        contextlib.closing(engine.generate(shards.todo(seed), sampling)) as finished,
        tqdm(
            total=total,
            initial=(done := total - shards.lacking),
            desc=description,
            unit="answer",
            disable=disable_progress or not state.is_local_main_process or not shards.lacking,
        ) as progress,
    ):
        started, tokens = time.monotonic(), 0
        on_progress(done, total, tokens)
        try:
            for number, responses in finished:
                shards.add(number, responses, keep=not engine.repeats)
                tokens += sum(len(response.ids) for response in responses)
                done += len(responses)
                progress.update(len(responses))
                on_progress(done, total, tokens)
                progress.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s")
        except UnansweredError as error:
            raise named_prompts(error, rows, work) from error
        except CompletionsError as error:
            error.args = (f"{error}\nEverything that was finished is kept; the same command asks for the rest.",)
            raise
    assert done == total, f"the engine {engine.name} has left out {total - done} responses"
    if torch.distributed.is_initialized() and processes > 1:
        # If one process fails, the others must not report success.
        state.wait_for_everyone()
    if state.is_main_process:
        store.note_split()
