"""Gathers what the cards of a run say, from its directory alone, and writes them beside its models."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from huggingface_hub import DatasetCard, ModelCard

from ..data.reading.local import is_local
from ..errors import RunDirectoryError
from ..files import home_expanded, read_json, write_atomically
from ..generation.store import STORE_MANIFEST, Generations, GenerationStore
from ..lineage import Origin, origin_from
from ..report.html.samples import evenly
from ..report.record import RunRecord, StageRecord, read_record
from ..report.write import digests, made_by, read_samples
from ..run.directory import RunDirectory
from ..run.journal import Step, is_of, newest
from ..run.stage import START, Stage
from .dataset import PairsInfo, info_of
from .dataset_card import DatasetFacts, Generator, dataset_card
from .model_card import SAMPLES, ModelFacts, model_card

logger = logging.getLogger(__name__)

START_BRANCH = "start"
OF_ONE_MACHINE = frozenset(
    {
        "accelerate_config",
        "disable_tqdm",
        "existing_run",
        "hub_dataset_id",
        "hub_model_id",
        "hub_private_repo",
        "logging_dir",
        "output_dir",
        "project",
        "push_generations",
        "push_to_hub",
        "hub_backup",
        "python",
        "report_to",
        "run_dir",
        "run_name",
    }
)
"""Settings that a card's recipe leaves out: they say where a run was played, and where it went."""

_PATH = re.compile(r"^(~|\.{0,2})?/|^[A-Za-z]:\\")


@dataclass(frozen=True)
class Names:
    """Where a run's models and pairs are on the Hub.

    Attributes:
        model, dataset: repositories, or None.
        branches: by stage.
    """

    model: str | None = None
    dataset: str | None = None
    branches: Mapping[str, str] = field(default_factory=dict)


def branch_of(stage: StageRecord) -> str:
    """The branch on which a stage's model is pushed."""
    return START_BRANCH if stage.name.is_start else f"iter-{stage.iteration}"


def has_model(directory: RunDirectory, stage: StageRecord) -> bool:
    """Whether a stage's model lies in the run directory."""
    return any(directory.model(stage.name).glob("*.safetensors"))


def accepted(record: RunRecord) -> list[StageRecord]:
    """The iterations whose models the run stands by: the gate has not fallen back from them, nor have they diverged."""
    return [
        stage
        for stage in record.iterations
        if record.decision(stage).get("decision") not in (None, "fell back") and not stage.has_diverged
    ]


def pushed_names(record: RunRecord) -> Names:
    """Where the run has been pushed, by its journal."""
    entries = [entry for entry in record.journal if is_of(entry, Step.PUSH)]
    models = [entry for entry in entries if entry.get("kind") == "model"]
    datasets = [entry["repository"] for entry in entries if entry.get("kind") == "dataset"]
    repository = models[-1]["repository"] if models else None
    branches = {
        entry["stage"]: entry["revision"]
        for entry in models
        if entry["repository"] == repository and entry["revision"] != "main"
    }
    return Names(repository, datasets[-1] if datasets else None, branches)


def card_of(
    directory: RunDirectory, record: RunRecord, stage: StageRecord, names: Names, revision: str | None = None
) -> ModelCard:
    """The card of a stage's model.

    Args:
        directory: of the run.
        record: of the run.
        stage: whose model.
        names: on the Hub.
        revision: branch that the card is for; None: the main one.
    """
    folder = directory.model(stage.name)
    origin = _origin(record)
    license_, source = _license(record, "model", "the base model's")
    has_own = has_model(directory, stage)
    base_in_run = origin is None and has_model(directory, StageRecord(name=START))
    return model_card(
        ModelFacts(
            record=record,
            stage=stage,
            origin=origin or _given(record),
            data=origin_from(_recorded_origins(record).get("data")) or _origin_by_setting(record, "dataset_name"),
            held_out=origin_from(_recorded_origins(record).get("held_out"))
            or _origin_by_setting(record, "held_out_name"),
            is_adapter=(folder / "adapter_config.json").is_file(),
            branches=names.branches,
            repository=names.model,
            revision=revision,
            base_repository=(names.model, START_BRANCH) if base_in_run and names.model else None,
            sampling=_sampling_of(directory, stage),
            digests=digests(directory, record),
            samples=_samples(directory, stage),
            recipe=_recipe(record),
            license=license_,
            license_source=source,
            has_weights=has_own,
            made_by=made_by(),
        )
    )


def card_of_pairs(directory: RunDirectory, record: RunRecord, names: Names) -> tuple[DatasetCard, list[PairsInfo]]:
    """The card of the dataset that the generated pairs make, and what there is of each iteration.

    Raises:
        RunDirectoryError: nothing has been generated.
    """
    found = pairs_infos(directory, record)
    if not found:
        raise RunDirectoryError(f"{directory.path} has no generations of a whole iteration yet.")
    license_, source = _license(record, "data", "the source dataset's")
    manifests = {one.iteration: _manifest(directory.generations(Stage.of(one.iteration))) for one in found}
    generators = {}
    for number, manifest in manifests.items():
        stage = record.at(number)
        opponent = record.opponent(stage) if stage is not None else record.at(number - 1)
        opponent = opponent or StageRecord(name=START)
        generators[number] = Generator(opponent.label, _where(record, opponent, names), manifest.get("model"))
    facts = DatasetFacts(
        name=record.name,
        pairs=found,
        generators=generators,
        repository=names.dataset,
        model_repository=names.model,
        data=origin_from(_recorded_origins(record).get("data")) or _origin_by_setting(record, "dataset_name"),
        sampling={number: manifest.get("sampling", {}) for number, manifest in manifests.items()},
        template=record.prepared.get("template"),
        versions=record.prepared.get("versions") or {},
        license=license_,
        license_source=source,
        made_by=made_by(),
    )
    return dataset_card(facts), found


def generated_iterations(record: RunRecord) -> list[int]:
    """Iterations whose generations are whole."""
    return sorted({Stage(entry["stage"]).iteration for entry in record.journal if is_of(entry, Step.GENERATE)})


def pairs_infos(directory: RunDirectory, record: RunRecord) -> list[PairsInfo]:
    """What there is of each iteration's pairs."""
    numbers = generated_iterations(record)
    if not numbers or not directory.train_rows.is_dir():
        return []
    rows = load_from_disk(directory.train_rows)
    assert isinstance(rows, Dataset)
    return [info_of(number, rows, generations_of(directory, number)) for number in numbers]


def generations_of(directory: RunDirectory, iteration: int) -> Generations:
    """What the opponent of an iteration answered."""
    return Generations.load({iteration: GenerationStore(directory.generations(Stage.of(iteration)))})


def write_cards(directory: RunDirectory, *, pairs: bool = True) -> list[Path]:
    """Write the cards of all models that lie in a run directory, in place of what stood there, and that of its pairs.

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
        written = []
        for stage in record.stages:
            if has_model(directory, stage):
                path = directory.model(stage.name) / "README.md"
                _write_card(path, str(card_of(directory, record, stage, names, names.branches.get(stage.name))))
                written.append(path)
        if pairs and generated_iterations(record):
            directory.own("hub")
            directory.dataset_card().parent.mkdir(parents=True, exist_ok=True)
            _write_card(directory.dataset_card(), str(card_of_pairs(directory, record, names)[0]))
            written.append(directory.dataset_card())
    except ValueError as error:
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"{directory.path} has a file that can't be read: {error}") from error
    return written


def _write_card(path: Path, content: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def _recorded_origins(record: RunRecord) -> Mapping[str, Any]:
    return record.prepared.get("origins") or {}


def _origin(record: RunRecord) -> Origin | None:
    """Where θ_0 comes from; None if it was made in the run's directory."""
    found = origin_from(_recorded_origins(record).get("model"))
    if found is not None or "origins" in record.prepared:
        return found
    return _origin_by_setting(record, "model_name_or_path")  # of a run that an earlier version has begun


def _given(record: RunRecord) -> Origin | None:
    """Where a model that was given as an object comes from, as far as it said."""
    given = newest(record.journal, Step.GIVEN)
    if not given:
        return None
    found = origin_from(given.get("origin"))
    return Origin("given as an object", base=found.root if found is not None else None)


def _origin_by_setting(record: RunRecord, setting: str) -> Origin | None:
    """A model or dataset by its setting alone."""
    name = record.settings.get(setting)
    if not isinstance(name, str):
        return None
    if is_local(name) or _PATH.match(name):
        return Origin(home_expanded(name).name)
    return Origin(name, on_hub=":" not in name)


def _license(record: RunRecord, of: str, whose: str) -> tuple[str | None, str]:
    """A licence, and whose it is."""
    if record.settings.get("hub_license"):
        return str(record.settings["hub_license"]), "as set by whoever trained it"
    found = newest(record.journal, Step.LICENSES).get(of)
    return (str(found), whose) if found else (None, "")


def _where(record: RunRecord, stage: StageRecord, names: Names) -> str | None:
    """Repository and revision of a stage's model."""
    if names.model and stage.name in names.branches:
        return f"{names.model}@{names.branches[stage.name]}"
    origin = _origin(record)
    if stage.name.is_start and origin is not None and origin.on_hub:
        return f"{origin.name}@{origin.commit}" if origin.commit else origin.name
    return None


def _manifest(folder: Path) -> dict[str, Any]:
    found = read_json(folder / STORE_MANIFEST)
    return found if isinstance(found, dict) else {}


def _sampling_of(directory: RunDirectory, stage: StageRecord) -> dict[str, Any]:
    """How the opponent of an iteration answered; of the start, how it answered itself."""
    manifest = _manifest(directory.generations(Stage.of(max(stage.iteration, 0))))
    found = dict(manifest.get("sampling") or {})
    return {**found, "engine": manifest["engine"]} if "engine" in manifest else found


def _samples(directory: RunDirectory, stage: StageRecord) -> list[dict[str, Any]]:
    """A few held-out prompts, spread evenly."""
    path = directory.samples(stage.name)
    wanted = set(evenly([row["key"] for row in read_samples(path)], SAMPLES))
    return [row for row in read_samples(path) if row["key"] in wanted]


def _recipe(record: RunRecord) -> dict[str, Any]:
    """Settings to play a run again, without paths of this machine."""
    kept = {name: _without_path(value) for name, value in record.settings.items() if name not in OF_ONE_MACHINE}
    origin = _origin(record)
    if origin is not None and "model_name_or_path" not in kept:
        kept["model_name_or_path"] = origin.name
    if origin is not None and origin.on_hub and origin.commit:
        kept.setdefault("model_revision", origin.commit)
    data = origin_from(_recorded_origins(record).get("data"))
    if data is not None and data.on_hub and data.commit:
        kept.setdefault("dataset_revision", data.commit)
    return kept


def _without_path(value: Any) -> Any:
    if isinstance(value, str) and (_PATH.match(value) or (os.sep in value and os.path.exists(value))):
        return Path(value).name
    if isinstance(value, Mapping):
        return {name: _without_path(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_path(part) for part in value]
    return value
