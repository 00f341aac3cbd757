"""The model card of a run's model: what it was made of, how, how good it is, and what it can't be.

Cells and sentences come from the run's record, as in the report; here they become Markdown with metadata of the Hub's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..counts import counted
from ..evaluation.figures import SCORES, figure_of, is_score
from ..lineage import Origin
from ..objectives.registry import methods_of
from ..report.formats import MISSING
from ..report.record import RunRecord, StageRecord
from ..report.tables import costs, devices, figures, standings
from ..report.verdict import remarks, verdict
from ..run.journal import Step, is_of
from ..run.stage import SELF_PLAY
from . import markdown

PLACEHOLDER = "path/to/this/folder"
"""Stands for the model's name while it has none on the Hub."""

UNKNOWN_LICENSE = "unknown"
"""The Hub's word for it."""

TAGS = ("trl", "dpo", "spin", "self-play")
SAMPLES = 3


@dataclass(frozen=True)
class ModelFacts:
    """What a card says, beside the run's record.

    Attributes:
        record: of the run.
        stage: whose model it is.
        origin: of θ_0, or None: it was built from scratch, or given as an object.
        data, held_out: where the human responses come from, or None where nobody knows.
        is_adapter: whether the model is an adapter.
        branches: on the Hub, by stage; empty for a run that is not pushed.
        repository: name on the Hub, or None.
        revision: branch that the card lies on; None: the main one, or none yet.
        base_repository: of an adapter whose base is the run's own start, the repository and branch that have it.
        sampling: settings with which the opponents answered.
        digests: hashes of data, template and models, by what they belong to.
        samples: lines of `samples.jsonl`.
        recipe: settings to play it again, without what belongs to one machine.
        license: of the model, or None: unknown.
        license_source: whose it is, in words.
        has_weights: whether the model lies beside the card; else the start is the best, and elsewhere.
        made_by: name and version of this package.
    """

    record: RunRecord
    stage: StageRecord
    origin: Origin | None = None
    data: Origin | None = None
    held_out: Origin | None = None
    is_adapter: bool = False
    branches: Mapping[str, str] = field(default_factory=dict)
    repository: str | None = None
    revision: str | None = None
    base_repository: tuple[str, str] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    license_source: str = ""
    has_weights: bool = True
    made_by: str = "spin_trl"

    @property
    def losses(self) -> list[str]:
        """Names of the objectives."""
        found = self.record.settings.get("loss_type") or "sigmoid"
        return [str(loss) for loss in found] if isinstance(found, list) else [str(found)]

    @property
    def base_model(self) -> str | None:
        """The name on the Hub that the model comes from, through the whole chain."""
        return self.origin.root if self.origin is not None else None


def model_card(facts: ModelFacts) -> ModelCard:
    """The card of a stage's model."""
    text = (
        environment()
        .get_template("model_card.md.j2")
        .render(
            facts=facts,
            record=facts.record,
            stage=facts.stage,
            title=markdown.escaped(f"{facts.record.name}, {facts.stage.label}"),
            verdict=markdown.escaped(verdict(facts.record)),
            remarks=[markdown.escaped(one) for one in remarks(facts.record)],
            origin=_origin_sentence(facts),
            datasets=_dataset_lines(facts),
            methods=methods_of(facts.losses),
            weights=_weights(facts),
            standings=markdown.table(standings(facts.record)),
            figures={name: markdown.table(found) for name, found in figures(facts.record).items()},
            opponents=_opponents(facts),
            costs=markdown.table(costs(facts.record)),
            devices=markdown.escaped(devices(facts.record)),
            sampling=markdown.rows(
                ["setting", "value"], [[markdown.code(n), markdown.code(str(v))] for n, v in facts.sampling.items()]
            ),
            versions=markdown.named_values(facts.record.prepared.get("versions") or {}),
            digests=markdown.named_values(facts.digests),
            samples=[_sample(row) for row in facts.samples[:SAMPLES]],
            recipe=markdown.fenced(
                yaml.safe_dump(dict(facts.recipe), sort_keys=True, allow_unicode=True).strip(), 8_000
            ).replace("text\n", "yaml\n", 1),
            usage=_usage(facts),
            counted_prompts=facts.record.held_out,
            own=_own_settings(facts),
        )
    )
    return ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}")


@functools.cache
def environment() -> Environment:
    """Of the templates. Nothing is escaped there: what needs it has been, by what it is to stand in."""
    return Environment(
        loader=PackageLoader("spin_trl.hub"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _metadata(facts: ModelFacts) -> ModelCardData:
    name = facts.repository.split("/")[-1] if facts.repository else facts.record.name
    data: dict[str, Any] = {
        "base_model": facts.base_model,
        "base_model_relation": ("adapter" if facts.is_adapter else "finetune") if facts.base_model else None,
        "datasets": [facts.data.name] if facts.data is not None and facts.data.on_hub else None,
        "library_name": "peft" if facts.is_adapter else "transformers",
        "license": facts.license or UNKNOWN_LICENSE,
        "pipeline_tag": "text-generation",
        "tags": [*TAGS, *(loss for loss in facts.losses if loss not in TAGS)],
    }
    results = _results(facts)
    return ModelCardData(
        model_name=name if results else None,
        eval_results=results or None,
        **{key: value for key, value in data.items() if value is not None},
    )


def _results(facts: ModelFacts) -> list[EvalResult]:
    """The held-out figures that have an interval, for the metadata."""
    record, stage = facts.record, facts.stage
    known = facts.held_out or facts.data
    found = []
    for name in stage.figures:
        value, interval = stage.value(name), stage.interval(name)
        is_shown = is_score(name) or figure_of(name).table == SCORES
        if not is_shown or value is None or interval is None or not all(map(math.isfinite, (value, *interval))):
            continue
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Text generation",
                dataset_type=known.name if known is not None else "held-out",
                dataset_name=f"{record.held_out or 0} held-out prompts",
                dataset_revision=known.commit if known is not None else None,
                metric_type=name,
                metric_name=figure_of(name).words,
                metric_value=value,
                metric_args={"interval_95_low": interval[0], "interval_95_high": interval[1]},
            )
        )
    return found


def _origin_sentence(facts: ModelFacts) -> str:
    """Where the model comes from, root and chain, in a sentence."""
    origin, stage = facts.origin, facts.stage
    if origin is None:
        begin = "a model that was built and trained from scratch"
    elif origin.on_hub:
        begin = linked(origin)
    else:
        come = f", which comes from {linked(Origin(origin.base, on_hub=True))}" if origin.base else ""
        begin = f"the local model {markdown.code(origin.name)}{come}"
    if stage.name.is_start:
        return f"This is the start of the run: {begin}."
    chain: list[str] = []
    before: StageRecord | None = stage
    while before is not None and not before.name.is_start:
        chain.insert(0, before.label)
        before = facts.record.opponent(before)
    played = f" ({' → '.join(['start', *chain])})" if len(chain) > 1 else ""
    what = "An adapter" if facts.is_adapter else "A model"
    return f"{what} made from {begin} by {'self-play' if stage.arm == SELF_PLAY else 'supervised training'}{played}."


def linked(origin: Origin, kind: str = "model") -> str:
    """A name on the Hub as a link, with the commit if it is known; of others the name."""
    if not origin.on_hub:
        return f"{markdown.code(origin.name)} (local)"
    place = "datasets/" if kind == "dataset" else ""
    url = f"https://huggingface.co/{place}{origin.name}"
    at = ""
    if origin.commit:
        at = f" at commit [{origin.commit[:8]}]({url}/tree/{origin.commit})"
    return f"[{markdown.escaped(origin.name)}]({url}){at}"


def _dataset_lines(facts: ModelFacts) -> list[str]:
    prepared, record = facts.record.prepared, facts.record
    name = linked(facts.data, "dataset") if facts.data is not None else "a dataset that was given as an object"
    details = [
        f"{counted(prepared['train_rows'], 'row')} to train on" if "train_rows" in prepared else "",
        f"{counted(prepared['left_out'], 'left out because its prompt is', 'left out because their prompts are')} too long"
        if prepared.get("left_out")
        else "",
        f"{counted(prepared['bad_rows'], 'left out because it', 'left out because they')} can't be used"
        if prepared.get("bad_rows")
        else "",
    ]
    lines = [f"Human responses: {name}" + "".join(f", {one}" for one in details if one) + "."]
    if record.held_out:
        of = f", from {linked(facts.held_out, 'dataset')}" if facts.held_out is not None else ", none trained on"
        lines.append(f"Held out: {counted(record.held_out, 'prompt')}{of}.")
    return lines


def _weights(facts: ModelFacts) -> list[Any]:
    weights = facts.record.settings.get("loss_weights")
    return list(weights) if isinstance(weights, list) and len(weights) == len(facts.losses) > 1 else []


def _objective_settings(facts: ModelFacts) -> dict[str, Any]:
    """What the stage was trained with, or else the newest that was trained."""
    trained = [
        entry["objective"]
        for entry in facts.record.journal
        if is_of(entry, Step.TRAIN)
        and isinstance(entry.get("objective"), Mapping)
        and (entry.get("stage") == facts.stage.name or facts.stage.name.is_start)
    ]
    return dict(trained[-1]) if trained else {}


def _own_settings(facts: ModelFacts) -> str:
    """The objective's settings in a line."""
    return ", ".join(f"`{name}` {value}" for name, value in _objective_settings(facts).items() if value is not None)


def _opponents(facts: ModelFacts) -> str:
    """Every iteration with its opponent, and the revisions that have both."""
    record = facts.record
    cells = []
    for stage in record.iterations:
        opponent = record.opponent(stage)
        cells.append(
            [
                stage.label,
                _revision(facts, stage),
                opponent.label if opponent is not None else MISSING,
                _revision(facts, opponent),
                record.decision(stage).get("decision", MISSING),
            ]
        )
    return markdown.rows(["model", "revision", "opponent", "its revision", "decision"], cells) if cells else ""


def _revision(facts: ModelFacts, stage: StageRecord | None) -> str:
    if stage is None:
        return MISSING
    branch = facts.branches.get(stage.name)
    if branch is not None:
        return markdown.code(branch)
    if stage.name.is_start and facts.origin is not None and facts.origin.on_hub:
        at = f"@{facts.origin.commit[:8]}" if facts.origin.commit else ""
        return markdown.code(f"{facts.origin.name}{at}")
    return MISSING


def _sample(row: Mapping[str, Any]) -> dict[str, str]:
    def text(name: str) -> str:
        value = row.get(name)
        return markdown.fenced(value if isinstance(value, str) else str(value if value is not None else ""))

    ended = {"eos": "ended by itself", "length": "cut at the length limit"}.get(str(row.get("finish_reason")), "")
    score = row.get("score")
    notes = [f"score {score:.4g}"] if isinstance(score, int | float) and math.isfinite(score) else []
    notes += [ended] if ended else []
    return {
        "prompt": text("prompt"),
        "real": text("real"),
        "generated": text("generated"),
        "notes": f" ({', '.join(notes)})" if notes else "",
    }


def _usage(facts: ModelFacts) -> dict[str, Any]:
    """What the code of the card needs to name."""
    name = facts.repository or PLACEHOLDER
    branch = facts.revision if facts.repository else None
    base = facts.base_model or PLACEHOLDER.replace("this/folder", "the/base")
    base_revision = facts.origin.commit if facts.origin is not None and facts.origin.on_hub else None
    if facts.base_repository is not None:
        base, base_revision = facts.base_repository
    elif facts.origin is not None and not facts.origin.on_hub:
        base = f"path/to/{facts.origin.name}"
    if not facts.has_weights:
        name, branch = base, base_revision
    return {"name": name, "revision": branch, "base": base, "base_revision": base_revision}
