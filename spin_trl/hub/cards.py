"""Gathers the facts for a run's cards, from its directory alone, and writes the cards next to its models."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, ModelCard

from ..data.arrow import load_saved_rows
from ..errors import RunDirectoryError
from ..files import ADAPTER_CONFIG, write_atomically
from ..generation.generations import Generations
from ..generation.store import STORE_MANIFEST, GenerationStore
from ..report.html.samples import evenly
from ..report.record import RunRecord, StageRecord, read_record
from ..report.write import digests, read_samples, sampled_with
from ..run.directory import RunDirectory
from ..run.journal import WORSE, Step, is_of
from ..run.objects import read_object
from ..run.stage import DPO, START, Stage
from .dataset import PairsInfo, info_of
from .dataset_card import dataset_card
from .facts import START_BRANCH, Names, RunFacts, at_commit
from .model_card import SAMPLES, ModelFacts, model_card


def branch_of(stage: StageRecord) -> str:
    """Return the branch that a stage's model is pushed to."""
    if stage.arm == DPO:
        origin = stage.name.origin
        return f"{DPO}-{origin if origin.iteration < 0 else f'iter-{origin.iteration}'}"
    return START_BRANCH if stage.name.is_start else f"iter-{stage.iteration}"


def has_model(directory: RunDirectory, stage: StageRecord | None) -> bool:
    """Return whether a stage's model is in the run directory."""
    return stage is not None and any(directory.model(stage.name).glob("*.safetensors"))


def accepted(record: RunRecord) -> list[StageRecord]:
    """Return the accepted iterations and results of DPO: those that did not diverge, and that the gate did not reject."""
    return [
        stage
        for stage in (*record.iterations, *record.after_dpo)
        if record.decision(stage).get("decision") not in (None, "fell back", WORSE)
        and stage.name not in record.rejected
        and not stage.has_diverged
    ]


def pushed_names(record: RunRecord) -> Names:
    """Return the repositories and branches that the run was pushed to, according to its journal."""
    pushes = [entry for entry in record.journal if is_of(entry, Step.PUSH)]
    newest = {entry.get("kind"): entry["repository"] for entry in pushes}
    to_models = [
        entry for entry in pushes if (entry.get("kind"), entry["repository"]) == ("model", newest.get("model"))
    ]
    branches = {entry["stage"]: entry["revision"] for entry in to_models if entry["revision"] != "main"}
    return Names(newest.get("model"), newest.get("dataset"), branches)


def run_facts(directory: RunDirectory, record: RunRecord, names: Names) -> RunFacts:
    """Gather the facts shared by all cards of a run."""
    own_start = has_model(directory, StageRecord(name=START))
    is_adapter = (directory.model(START) / ADAPTER_CONFIG).is_file()
    return RunFacts(record, names, own_start, own_start and is_adapter, digests(directory, record))


def card_of(directory: RunDirectory, run: RunFacts, stage: StageRecord, revision: str | None = None) -> ModelCard:
    """Return the card of a stage's model.

    Args:
        directory: run directory.
        run: facts shared by all cards of the run.
        stage: stage whose model the card is for.
        revision: branch that the card is for; None for `main`.
    """
    # The opponent's sampling settings; for the start, its own as the first opponent.
    manifest = _manifest(directory, max(stage.name.origin.iteration, 0))
    samples = directory.samples(stage.name)
    return model_card(
        ModelFacts(
            run,
            stage,
            is_adapter=(directory.model(stage.name) / "adapter_config.json").is_file(),
            revision=revision,
            sampling=sampled_with(manifest),
            samples=_chosen_samples(samples, samples.stat().st_mtime_ns) if samples.exists() else [],
            has_weights=has_model(directory, stage),
        )
    )


def card_of_pairs(directory: RunDirectory, run: RunFacts) -> DatasetCard:
    """Return the card of the dataset of generated pairs.

    Raises:
        RunDirectoryError: if nothing has been generated.
    """
    record, pairs = run.record, []
    for iteration, made in generated_iterations(record).items() if directory.train_rows.is_dir() else ():
        manifest, stage = _manifest(directory, iteration), record.at(iteration)
        opponent = record.opponent(stage) if stage is not None else record.at(iteration - 1)
        opponent = opponent or StageRecord(name=START)
        info, where = _pairs_info(directory, iteration, made), _where(run, opponent)
        digest, sampling = manifest.get("model"), sampled_with(manifest)
        pairs.append(replace(info, label=opponent.label, where=where, digest=digest, sampling=sampling))
    if not pairs:
        raise RunDirectoryError(f"{directory.path} does not have the generations of a complete iteration yet.")
    return dataset_card(run, pairs)


def generated_iterations(record: RunRecord) -> dict[int, float]:
    """Return the iterations whose generations are complete, in order, with the time of completion."""
    found = {Stage(one["stage"]).iteration: one.get("time", 0) for one in record.journal if is_of(one, Step.GENERATE)}
    return dict(sorted(found.items()))


@functools.cache
def _pairs_info(directory: RunDirectory, iteration: int, made: float) -> PairsInfo:
    """Gather the facts about an iteration's pairs; cached, so that pushing many iterations reads each only once."""
    return info_of(iteration, load_saved_rows(directory.train_rows), generations_of(directory, iteration))


def generations_of(directory: RunDirectory, iteration: int) -> Generations:
    """Return the generations of an iteration's opponent."""
    return Generations.load({iteration: GenerationStore(directory.generations(Stage.of(iteration)))})


def write_cards(directory: RunDirectory, *, pairs: bool = True) -> list[Path]:
    """Write the cards of all models in a run directory, and the card of its pairs. Unchanged cards are not rewritten.

    Args:
        directory: run directory.
        pairs: whether to write the card of the pairs, which reads all generations.

    Returns:
        The paths of the cards.

    Raises:
        RunDirectoryError: if there is no run, or one of its files can't be read.
    """
    directory.check_run()
    try:
        record = read_record(directory)
        names = pushed_names(record)
        run = run_facts(directory, record, names)
        written = []
        for stage in record.stages:
            if has_model(directory, stage):
                written.append(directory.model(stage.name) / "README.md")
                _write_card(written[-1], card_of(directory, run, stage, names.branches.get(stage.name)))
        if pairs and generated_iterations(record):
            directory.own("hub")
            directory.dataset_card().parent.mkdir(parents=True, exist_ok=True)
            written.append(directory.dataset_card())
            _write_card(written[-1], card_of_pairs(directory, run))
    except ValueError as error:
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"{directory.path} has a file that can't be read: {error}") from error
    return written


def _write_card(path: Path, card: ModelCard | DatasetCard) -> None:
    content = str(card).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, lambda file: file.write(content))


def _where(run: RunFacts, stage: StageRecord) -> str | None:
    """Return the repository and revision of a stage's model, or None if it is not on the Hub."""
    if run.names.model and stage.name in run.names.branches:
        return f"{run.names.model}@{run.names.branches[stage.name]}"
    if stage.name.is_start and not run.sft_first and run.given is not None and run.given.on_hub:
        return at_commit(run.given)
    return None


def _manifest(directory: RunDirectory, iteration: int) -> dict[str, Any]:
    return read_object(directory.generations(Stage.of(iteration)) / STORE_MANIFEST)


@functools.cache
def _chosen_samples(path: Path, changed: int) -> list[dict[str, Any]]:
    """Return a few evenly spaced samples; cached, since a run rewrites its cards repeatedly."""
    wanted = set(evenly([row["key"] for row in read_samples(path)], SAMPLES))
    return [row for row in read_samples(path) if row["key"] in wanted]
