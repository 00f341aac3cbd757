"""The facts that all cards of a run share, gathered once from its record: its origin, iterations, costs and licence."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CardData
from jinja2 import Environment

from ..config.traits import OF_ONE_MACHINE, SFT_FIRST
from ..counts import counted
from ..data.reading.local import is_local
from ..errors import visible
from ..files import home_expanded
from ..models.lineage import Origin, origin_from
from ..objectives.registry import methods_of
from ..report.formats import MISSING
from ..report.html.page import template_environment
from ..report.judge_facts import faults_of_judge, who_judged
from ..report.record import RunRecord, StageRecord
from ..report.reviews import review_note, reviews, reviews_in_words
from ..report.tables import costs, devices, figures, final_test, retention, standings
from ..report.verdict import on_choice, remarks, verdict
from ..report.write import made_by
from ..run.journal import PAIRS, TEST, Step, newest
from . import markdown

PLACEHOLDER = "path/to/this/folder"
"""Placeholder for a name on the Hub until there is one."""

UNKNOWN_LICENSE = "unknown"
"""The Hub's value for an unknown licence."""

START_BRANCH = "start"

AS_OBJECT = "given as an object"
"""Name of the origin of a start that was passed as a Python object. It is neither a local folder nor on the Hub."""

_PATH = re.compile(r"^(~|\.{0,2})?/|^[A-Za-z]:\\")

_WHOSE = {"model": "the base model's", "data": "the source dataset's"}


@dataclass(frozen=True)
class Names:
    """The names of a run's models and pairs on the Hub.

    Attributes:
        model, dataset: repositories, or None.
        branches: branch of each stage's model, by stage name.
    """

    model: str | None = None
    dataset: str | None = None
    branches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """The facts that the cards of a run share.

    Attributes:
        record: record of the run.
        names: names on the Hub.
        has_own_start: whether the start's model is in the run directory.
        own_start_is_adapter: whether that model is an adapter.
        digests: hashes of the data, the template and the models, by name.
    """

    record: RunRecord
    names: Names = field(default_factory=Names)
    has_own_start: bool = False
    own_start_is_adapter: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def sft_first(self) -> bool:
        """Whether the run trained its start from the given model with SFT."""
        return self.record.settings.get("start") == SFT_FIRST

    @property
    def adapts_own_start(self) -> bool:
        """Whether the run's own start is the base of its adapters: it was built here, or trained as a whole with SFT."""
        trained_here = not self.own_start_is_adapter if self.sft_first else self.given is None
        return self.has_own_start and trained_here

    @cached_property
    def given(self) -> Origin | None:
        """The origin of the given model, θ_0 or the base, or None if it was created in the run directory."""
        found = self._origin("model")
        if found is not None or "origins" in self.record.prepared:
            return found
        return self._by_setting("model_name_or_path")  # a run started by an earlier version

    @cached_property
    def origin(self) -> Origin | None:
        """The origin of the given model; for an object, as the object states it; None if θ_0 was built from scratch."""
        given = newest(self.record.journal, Step.GIVEN)
        if self.given is not None or not given:
            return self.given
        found = origin_from(given.get("origin"))
        return Origin(AS_OBJECT, base=found.root if found is not None else None)

    @cached_property
    def data(self) -> Origin | None:
        """The origin of the human responses, or None if unknown."""
        return self._origin("data") or self._by_setting("dataset_name")

    @cached_property
    def held_out(self) -> Origin | None:
        """The origin of the held-out prompts, if they are not taken from the data."""
        return self._origin("held_out") or self._by_setting("held_out_name")

    @cached_property
    def test(self) -> Origin | None:
        """The origin of the test set, or None if there is none or it is unknown."""
        return origin_from(self.record.prepared_set(TEST).get("origin")) or self._by_setting("test_name")

    @cached_property
    def pairs(self) -> Origin | None:
        """The origin of the preference pairs of DPO on top, or None if there are none or it is unknown."""
        return origin_from(self.record.prepared_set(PAIRS).get("origin")) or self._by_setting("dpo_name")

    def _origin(self, of: str) -> Origin | None:
        return origin_from((self.record.prepared.get("origins") or {}).get(of))

    def _by_setting(self, setting: str) -> Origin | None:
        """Return the origin of a model or dataset as given by its setting alone."""
        name = self.record.settings.get(setting)
        if not isinstance(name, str):
            return None
        return Origin(home_expanded(name).name) if _is_path(name) else Origin(name, on_hub=":" not in name)

    @cached_property
    def losses(self) -> list[str]:
        """The names of the objectives."""
        found = self.record.settings.get("loss_type") or "sigmoid"
        return [str(loss) for loss in found] if isinstance(found, list) else [str(found)]

    def license_of(self, what: str) -> tuple[str | None, str]:
        """Return the licence of the `model` or of the `data` (None if unknown), and where it comes from."""
        if self.record.settings.get("hub_license"):
            return str(self.record.settings["hub_license"]), "set by the author of the run"
        found = newest(self.record.journal, Step.LICENSES).get(what)
        return (str(found), _WHOSE[what]) if found else (None, "")

    @cached_property
    def shared(self) -> dict[str, object]:
        """The parts of the template that are the same on all model cards."""
        record = self.record
        weights = record.settings.get("loss_weights")
        has_weights = isinstance(weights, list) and len(weights) == len(self.losses) > 1
        recipe = yaml.safe_dump(self._recipe(), sort_keys=True, allow_unicode=True).strip()
        return {
            "record": record,
            "verdict": verdict(record),
            "remarks": [*remarks(record), *reviews_in_words(record)],
            "methods": methods_of(self.losses),
            "weights": weights if has_weights else [],
            "standings": markdown.table(standings(record)),
            "on_choice": on_choice(record),
            "final_test": None if (tested := final_test(record)) is None else markdown.table(tested),
            "retention": None if (kept := retention(record)) is None else markdown.table(kept),
            "reviews": None if (voted := reviews(record)) is None else markdown.table(voted),
            "review_note": review_note(record),
            "figures": {name: markdown.table(found) for name, found in figures(record).items()},
            "opponents": self._opponents_table(),
            "costs": markdown.table(costs(record)),
            "devices": devices(record),
            "judge": who_judged(record, names_host=False),
            "faults_of_judge": faults_of_judge(record),
            "recipe": markdown.fenced(recipe, 8_000).replace("text\n", "yaml\n", 1),
        }

    def _recipe(self) -> dict[str, Any]:
        """Return the settings to play the run again, without paths of this machine."""
        settings = self.record.settings.items()
        kept = {name: _without_path(value) for name, value in settings if name not in OF_ONE_MACHINE}
        if self.given is not None:
            kept.setdefault("model_name_or_path", self.given.name)
        for name, origin in (("model_revision", self.given), ("dataset_revision", self._origin("data"))):
            if origin is not None and origin.on_hub and origin.commit:
                kept.setdefault(name, origin.commit)
        return kept

    def _opponents_table(self) -> str:
        """Return a table of the iterations with their opponents and the revisions of both."""
        cells = [
            [
                stage.label,
                self._revision(stage),
                opponent.label if opponent is not None else MISSING,
                self._revision(opponent),
                self.record.decision(stage).get("decision", MISSING),
            ]
            for stage in self.record.iterations
            for opponent in [self.record.opponent(stage)]
        ]
        return markdown.rows(["model", "revision", "opponent", "its revision", "decision"], cells) if cells else ""

    def _revision(self, stage: StageRecord | None) -> str:
        if stage is None:
            return MISSING
        if stage.name in self.names.branches:
            return markdown.code(self.names.branches[stage.name])
        if stage.name.is_start and not self.sft_first and self.origin is not None and self.origin.on_hub:
            return markdown.code(at_commit(self.origin, 8))
        return MISSING


def linked(origin: Origin | None, kind: str = "model") -> str:
    """Return a name on the Hub as a link, with the commit if known; other names as code."""
    if origin is None:
        return f"a {kind} passed as an object"
    if not origin.on_hub:
        return f"{markdown.code(origin.name)} (local)"
    url = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{origin.name}"
    at = f" at commit [{origin.commit[:8]}]({url}/tree/{origin.commit})" if origin.commit else ""
    return f"[{markdown.escaped(origin.name)}]({url}){at}"


def at_commit(origin: Origin, digits: int | None = None) -> str:
    """Return a name on the Hub with the first digits of its commit (None: all digits), if the commit is known."""
    return f"{origin.name}@{origin.commit[:digits]}" if origin.commit else origin.name


@functools.cache
def environment() -> Environment:
    """Return the templates' environment, without autoescaping: how to escape a value depends on where it is inserted."""
    made = template_environment("spin_trl.hub", autoescape=False, keep_trailing_newline=True)
    made.globals |= {"counted": counted, "made_by": made_by()}
    made.filters |= {"code": markdown.code, "escaped": markdown.escaped, "linked": linked}
    made.filters["named"] = markdown.named_values
    return made


def card_text(template: str, metadata: CardData, **parts: Any) -> str:
    """Return a card's text: the metadata and the template rendered with the parts, without invisible characters."""
    text = environment().get_template(template).render(parts)
    return visible(f"---\n{metadata.to_yaml()}\n---\n\n{text}")


def _is_path(name: str) -> bool:
    return is_local(name) or _PATH.match(name) is not None


def _without_path(value: Any) -> Any:
    if isinstance(value, str) and (_PATH.match(value) or (os.sep in value and os.path.exists(value))):
        return Path(value).name
    if isinstance(value, Mapping):
        return {name: _without_path(part) for name, part in value.items()}
    return [_without_path(part) for part in value] if isinstance(value, list) else value
