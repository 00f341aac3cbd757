"""The generate phase, and what evaluation shares with it: one of a run's models answers prompts, into a store."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel

from .. import data
from ..generation.engine import Sampling
from ..generation.produce import generate
from ..generation.store import GenerationStore
from ..generation.transformers import TransformersEngine
from ..models import digest, load_policy
from .directory import iteration_stage
from .run import Run, free_memory, since


@contextlib.contextmanager
def loaded(run: Run, path: str) -> Iterator[tuple[PreTrainedModel, Accelerator]]:
    """A model of the run, on this process's device, for as long as the context lasts."""
    accelerator = Accelerator(mixed_precision=run.args.mixed_precision, cpu=run.args.use_cpu)
    model = load_policy(path, run.args, run.quantization_config)
    if run.quantization_config is None:
        model = model.to(accelerator.device)
    try:
        yield model.eval(), accelerator
    finally:
        del model
        free_memory()


def answer(
    run: Run,
    path: str,
    rows: Dataset,
    folder: Path,
    iteration: int,
    description: str,
    *,
    greedy: bool = False,
    once: bool = False,
) -> float:
    """Let a model answer the prompts of `rows` into the store `folder`.

    Args:
        run: the run.
        path: of the model.
        rows: prepared rows.
        folder: of the store. If it is complete, no model is loaded.
        iteration: whose settings, and part of the seeds.
        description: of the progress bar.
        greedy: decode greedily.
        once: one response a prompt, whatever `num_generations` says.

    Returns:
        Seconds that the generation itself took.
    """
    store = GenerationStore(folder)
    if store.is_complete():
        return 0.0
    # The seed of the run, not of the iteration: the iteration enters by itself.
    sampling = dataclasses.replace(Sampling.from_args(run.iteration_args(iteration)), seed=run.args.seed)
    if greedy:
        sampling = dataclasses.replace(sampling, temperature=0.0)
    if once:
        sampling = dataclasses.replace(sampling, num_generations=1)
    template = run.template()
    with loaded(run, path) as (model, accelerator):
        model_digest = digest(model)
        started = time.monotonic()
        generate(
            TransformersEngine(model, template.eos_ids, run.tokenizer().pad_token_id, autocast=accelerator.autocast),
            rows,
            store,
            sampling,
            iteration=iteration,
            dataset_digest=data.digest(rows),
            template_digest=template.digest(),
            model_digest=model_digest,
            disable_progress=run.args.disable_tqdm,
            description=description,
        )
        return time.monotonic() - started


def generate_iteration(run: Run, iteration: int) -> None:
    """Let θ_t answer the training prompts of iteration t.

    Raises:
        GenerationsError: the folder holds generations of something else.
    """
    stage = iteration_stage(iteration)
    if run.done("generate", stage):
        return
    started = time.monotonic()
    folder = run.directory.generations(stage)
    description = f"{stage}: answers"
    path = run.opponent_model(iteration)
    work_seconds = answer(run, path, run.rows(), folder, iteration, description)
    tokens = sum(GenerationStore(folder).table()["length"].to_pylist())
    run.record("generate", stage, seconds=since(started), work_seconds=round(work_seconds, 3), tokens=tokens)
