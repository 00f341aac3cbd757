"""Gathers what the cards of a run say, from its directory alone, and writes them beside its models."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, ModelCard

from ..data.arrow import load_saved_rows
from ..errors import RunDirectoryError
from ..files import write_atomically
from ..generation.store import STORE_MANIFEST, Generations, GenerationStore
from ..report.html.samples import evenly
from ..report.record import RunRecord, StageRecord, read_record
from ..report.write import digests, read_samples
from ..run.directory import RunDirectory
from ..run.journal import Step, is_of
from ..run.objects import read_object
from ..run.stage import START, Stage
from .dataset import PairsInfo, info_of
from .dataset_card import dataset_card
from .facts import START_BRANCH, Names, RunFacts, at_commit
from .model_card import SAMPLES, ModelFacts, model_card


def branch_of(stage: StageRecord) -> str:
    """The branch on which a stage's model is pushed."""
    return START_BRANCH if stage.name.is_start else f"iter-{stage.iteration}"


def has_model(directory: RunDirectory, stage: StageRecord | None) -> bool:
    """Whether a stage's model lies in the run directory."""
    return stage is not None and any(directory.model(stage.name).glob("*.safetensors"))


def accepted(record: RunRecord) -> list[StageRecord]:
    """The iterations whose models the run stands by: the gate has not fallen back from them, nor have they diverged."""
    return [
        stage
        for stage in record.iterations
        if record.decision(stage).get("decision") not in (None, "fell back") and not stage.has_diverged
    ]


def pushed_names(record: RunRecord) -> Names:
    """Where the run has been pushed, by its journal."""
    pushes = [entry for entry in record.journal if is_of(entry, Step.PUSH)]
    newest = {entry.get("kind"): entry["repository"] for entry in pushes}
    to_models = [
        entry for entry in pushes if (entry.get("kind"), entry["repository"]) == ("model", newest.get("model"))
    ]
    branches = {entry["stage"]: entry["revision"] for entry in to_models if entry["revision"] != "main"}
    return Names(newest.get("model"), newest.get("dataset"), branches)


def run_facts(directory: RunDirectory, record: RunRecord, names: Names) -> RunFacts:
    """What all cards of a run say."""
    own_start = has_model(directory, StageRecord(name=START))
    return RunFacts(record, names, own_start, digests(directory, record))


def card_of(directory: RunDirectory, run: RunFacts, stage: StageRecord, revision: str | None = None) -> ModelCard:
    """The card of a stage's model.

    Args:
        directory: of the run.
        run: what all cards of the run say.
        stage: whose model.
        revision: branch that the card is for; None: the main one.
    """
    # How the opponent answered; of the start, how it answered itself.
    manifest = _manifest(directory, max(stage.iteration, 0))
    sampling = dict(manifest.get("sampling") or {})
    samples = directory.samples(stage.name)
    return model_card(
        ModelFacts(
            run,
            stage,
            is_adapter=(directory.model(stage.name) / "adapter_config.json").is_file(),
            revision=revision,
            sampling={**sampling, "engine": manifest["engine"]} if "engine" in manifest else sampling,
            samples=_chosen_samples(samples, samples.stat().st_mtime_ns) if samples.exists() else [],
            has_weights=has_model(directory, stage),
        )
    )


def card_of_pairs(directory: RunDirectory, run: RunFacts) -> DatasetCard:
    """The card of the dataset that the generated pairs make.

    Raises:
        RunDirectoryError: nothing has been generated.
    """
    record, pairs = run.record, []
    for iteration, made in generated_iterations(record).items() if directory.train_rows.is_dir() else ():
        manifest, stage = _manifest(directory, iteration), record.at(iteration)
        opponent = record.opponent(stage) if stage is not None else record.at(iteration - 1)
        opponent = opponent or StageRecord(name=START)
        info, where = _pairs_info(directory, iteration, made), _where(run, opponent)
        digest, sampling = manifest.get("model"), manifest.get("sampling", {})
        pairs.append(replace(info, label=opponent.label, where=where, digest=digest, sampling=sampling))
    if not pairs:
        raise RunDirectoryError(f"{directory.path} has no generations of a whole iteration yet.")
    return dataset_card(run, pairs)


def generated_iterations(record: RunRecord) -> dict[int, float]:
    """Iterations whose generations are whole, in order, and when they were."""
    found = {Stage(one["stage"]).iteration: one.get("time", 0) for one in record.journal if is_of(one, Step.GENERATE)}
    return dict(sorted(found.items()))


@functools.cache
def _pairs_info(directory: RunDirectory, iteration: int, made: float) -> PairsInfo:
    """What there is of an iteration's pairs: whoever pushes those of many iterations reads each iteration once."""
    return info_of(iteration, load_saved_rows(directory.train_rows), generations_of(directory, iteration))


def generations_of(directory: RunDirectory, iteration: int) -> Generations:
    """What the opponent of an iteration answered."""
    return Generations.load({iteration: GenerationStore(directory.generations(Stage.of(iteration)))})


def write_cards(directory: RunDirectory, *, pairs: bool = True) -> list[Path]:
    """Write the cards of all models that lie in a run directory, and that of its pairs. What says the same already stays.

    Args:
        directory: of the run.
        pairs: whether to write that one, too; it reads all generations.

    Returns:
        Their paths.

    Raises:
        RunDirectoryError: there is no run, or one of its files can't be read.
    """
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
    """Repository and revision of a stage's model."""
    if run.names.model and stage.name in run.names.branches:
        return f"{run.names.model}@{run.names.branches[stage.name]}"
    if stage.name.is_start and run.start is not None and run.start.on_hub:
        return at_commit(run.start)
    return None


def _manifest(directory: RunDirectory, iteration: int) -> dict[str, Any]:
    return read_object(directory.generations(Stage.of(iteration)) / STORE_MANIFEST)


@functools.cache
def _chosen_samples(path: Path, changed: int) -> list[dict[str, Any]]:
    """A few held-out prompts, spread evenly. A run that writes its cards again and again reads each file once."""
    wanted = set(evenly([row["key"] for row in read_samples(path)], SAMPLES))
    return [row for row in read_samples(path) if row["key"] in wanted]
