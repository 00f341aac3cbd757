"""The model card of a run's model: its origin, its training, its results and its limits.

As in the report, tables and sentences come from the run's record; here they become Markdown with the Hub's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.figures import SCORES, figure_of, is_score
from ..evaluation.selection import Measured
from ..models.lineage import Origin
from ..report.html.samples import notes_of
from ..report.record import StageRecord, interval_of
from ..run.journal import PAIRS, Step, is_of
from ..run.stage import BEST_SFT, DPO, SELF_PLAY
from . import markdown
from .facts import AS_OBJECT, PLACEHOLDER, START_BRANCH, UNKNOWN_LICENSE, RunFacts, card_text, linked

TAGS = ("trl", "dpo", "spin", "self-play")
SAMPLES = 3


@dataclass(frozen=True)
class ModelFacts:
    """The facts about one model that its card states.

    Attributes:
        run: facts shared by all cards of the run.
        stage: stage whose model it is.
        is_adapter: whether the model is an adapter.
        revision: branch that the card is on; None for `main`, or if there is no branch yet.
        sampling: sampling settings that the opponents generated with.
        samples: lines of `samples.jsonl`.
        has_weights: whether the weights are next to the card; if not, the start is the best model and is stored elsewhere.
    """

    run: RunFacts
    stage: StageRecord
    is_adapter: bool = False
    revision: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    has_weights: bool = True

    @property
    def is_after_dpo(self) -> bool:
        """Whether DPO trained the model on preference pairs."""
        return self.stage.arm == DPO

    @property
    def skips_self_play(self) -> bool:
        """Whether DPO started from the base or the start, so that no iteration of self-play led to the model."""
        return self.is_after_dpo and self.stage.name.origin.iteration < 0

    @property
    def num_pairs(self) -> int:
        """Number of preference pairs that DPO trained on; 0 for other models."""
        return int(self.run.record.prepared_set(PAIRS).get("rows") or 0) if self.is_after_dpo else 0


def model_card(facts: ModelFacts) -> ModelCard:
    """Return the card of a stage's model."""
    parts = {
        **facts.run.shared,
        "facts": facts,
        "origin": _origin_sentence(facts),
        "samples": [_sample(row) for row in facts.samples[:SAMPLES]],
        "usage": _usage(facts),
        "own": _objective_settings(facts),
    }
    return ModelCard(card_text("model_card.md.j2", _metadata(facts), **parts))


def _metadata(facts: ModelFacts) -> ModelCardData:
    run = facts.run
    base = run.origin.root if run.origin is not None else None
    results = _results(facts)
    name = (run.names.model or run.record.name).split("/")[-1]
    data: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": ("adapter" if facts.is_adapter else "finetune") if base else None,
        "datasets": [run.data.name] if run.data is not None and run.data.on_hub else None,
    }
    return ModelCardData(
        model_name=name if results else None,
        eval_results=results or None,
        library_name="peft" if facts.is_adapter else "transformers",
        license=run.license_of("model")[0] or UNKNOWN_LICENSE,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([*TAGS, *run.losses])),
        **{key: value for key, value in data.items() if value is not None},
    )


def _results(facts: ModelFacts) -> list[EvalResult]:
    """Return the figures that have an interval, for the metadata: those on the test set, if the model was measured on it,
    else those on the held-out prompts."""
    record, stage = facts.run.record, facts.stage
    is_tested = bool(stage.test.figures)
    measured: Measured = stage.test if is_tested else stage
    known = facts.run.test if is_tested else facts.run.held_out or facts.run.data
    kind, count = ("test", record.num_tested) if is_tested else ("held-out", record.held_out or 0)
    found = []
    for name in measured.figures:
        value, interval = measured.value(name), interval_of(measured, name)
        if value is None or interval is None or not (is_score(name) or figure_of(name).table == SCORES):
            continue
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Text generation",
                dataset_type=known.name if known is not None else kind,
                dataset_name=f"{count} {kind} prompts",
                dataset_revision=known.commit if known is not None else None,
                metric_type=name,
                metric_name=figure_of(name).words,
                metric_value=value,
                metric_args={"interval_95_low": interval[0], "interval_95_high": interval[1]},
            )
        )
    return found


def _origin_sentence(facts: ModelFacts) -> str:
    """Describe the model's origin in one sentence: the root model and the chain of iterations."""
    origin, stage = facts.run.origin, facts.stage
    if origin is None:
        begin = "a model that was built and trained from scratch"
    elif origin.on_hub:
        begin = linked(origin)
    else:
        come = f", which is derived from {linked(Origin(origin.base, on_hub=True))}" if origin.base else ""
        name = f"the local model {markdown.code(origin.name)}"
        begin = f"{'a model that was passed as a Python object' if origin.name == AS_OBJECT else name}{come}"
    first = "base" if facts.run.sft_first else "start"
    if stage.name.is_start:
        trained = f"{'an adapter' if facts.is_adapter else 'a model'} fine-tuned with SFT from {begin}"
        return f"This is the start of the run: {trained if facts.run.sft_first else begin}."
    chain: list[str] = []
    before: StageRecord | None = stage
    while before is not None and not before.name.is_start and not before.name.is_base:
        chain.insert(0, before.label)
        before = facts.run.record.opponent(before)
    from_start = facts.run.sft_first and stage.arm != BEST_SFT and not stage.name.origin.is_base
    chain = ["start", *chain] if from_start else chain
    played = f" ({' → '.join([first, *chain])})" if len(chain) > 1 else ""
    what = "An adapter" if facts.is_adapter else "A model"
    how = "self-play" if stage.arm == SELF_PLAY else "supervised training"
    if facts.is_after_dpo:
        how = "DPO" if facts.skips_self_play else "self-play and DPO"
    how = f"SFT and {how}" if from_start else how
    return f"{what} fine-tuned by {how} from {begin}{played}."


def _objective_settings(facts: ModelFacts) -> str:
    """Return the objective's settings in one line: those of the stage's training; for the start, of the latest training."""
    trained: list[Mapping[str, Any]] = [
        entry["objective"]
        for entry in facts.run.record.journal
        if is_of(entry, Step.TRAIN, None if facts.stage.name.is_start else facts.stage.name)
        and isinstance(entry.get("objective"), Mapping)
    ]
    found = trained[-1].items() if trained else ()
    return ", ".join(f"`{name}` {value}" for name, value in found if value is not None)


def _sample(row: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: row.get(name) for name in ("prompt", "real", "generated")}
    found = {name: markdown.fenced("" if text is None else str(text)) for name, text in texts.items()}
    notes = markdown.escaped(", ".join(notes_of(row)))
    return {**found, "notes": f" ({notes})" if notes else ""}


def _usage(facts: ModelFacts) -> dict[str, str | None]:
    """Return the names and revisions used in the card's code example."""
    origin, repository = facts.run.origin, facts.run.names.model
    base, base_revision = PLACEHOLDER.replace("this/folder", "the/base"), None
    if facts.run.adapts_own_start and repository and not facts.stage.name.origin.is_base:
        base, base_revision = repository, START_BRANCH
    elif origin is not None and origin.name != AS_OBJECT:
        base = origin.name if origin.on_hub else f"path/to/{origin.name}"
        base_revision = origin.commit if origin.on_hub else None
    if not facts.has_weights:
        return {"name": base, "revision": base_revision, "base": base, "base_revision": base_revision}
    revision = facts.revision if repository else None
    return {"name": repository or PLACEHOLDER, "revision": revision, "base": base, "base_revision": base_revision}
