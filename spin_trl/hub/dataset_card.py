"""The card of the dataset that a run's generated pairs make: a configuration an iteration, and where all comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ..lineage import Origin
from . import markdown
from .dataset import MESSAGES_LAYOUT, PLAIN, PairsInfo
from .model_card import UNKNOWN_LICENSE, environment, linked

_FORMS = {
    MESSAGES_LAYOUT: "lists of messages (`role`, `content`)",
    PLAIN: "text",
}
_RENDERED = "text as the chat template made it, special tokens included"


@dataclass(frozen=True)
class Generator:
    """Who answered in an iteration.

    Attributes:
        label: the stage's name in words.
        where: repository and revision, or None: its weights are not on the Hub.
        digest: hash of its weights, or None.
    """

    label: str
    where: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What a card says of a run's pairs.

    Attributes:
        name: of the run.
        pairs: of the iterations, in order.
        generators: who answered, by iteration.
        repository: of the dataset on the Hub, or None.
        model_repository: of the run's models, or None.
        data: where the human responses come from, or None where nobody knows.
        sampling: settings by iteration.
        template: hash of tokenizer and template, or None.
        versions: of packages, by name.
        license: of the dataset, or None: unknown.
        license_source: whose it is, in words.
        made_by: name and version of this package.
    """

    name: str
    pairs: Sequence[PairsInfo]
    generators: Mapping[int, Generator] = field(default_factory=dict)
    repository: str | None = None
    model_repository: str | None = None
    data: Origin | None = None
    sampling: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    template: str | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    license_source: str = ""
    made_by: str = "spin_trl"


def config_name(iteration: int) -> str:
    """The configuration of an iteration, and the folder that has its files."""
    return f"iteration-{iteration}"


def dataset_card(facts: DatasetFacts) -> DatasetCard:
    """The card of the pairs."""
    last = max((one.iteration for one in facts.pairs), default=0)
    data = DatasetCardData(
        annotations_creators=["no-annotation"],
        language_creators=["machine-generated"],
        license=facts.license or UNKNOWN_LICENSE,
        pretty_name=f"Self-play pairs of {facts.name}",
        size_categories=[_size_category(sum(one.rows for one in facts.pairs))],
        source_datasets=[facts.data.name] if facts.data is not None and facts.data.on_hub else None,
        task_categories=["text-generation"],
        tags=["synthetic", "preference", "self-play", "spin", "trl", "dpo"],
        configs=[
            {
                "config_name": config_name(one.iteration),
                "data_files": [{"split": "train", "path": f"{config_name(one.iteration)}/*.parquet"}],
                **({"default": True} if one.iteration == last else {}),
            }
            for one in facts.pairs
        ],
    )
    text = (
        environment()
        .get_template("dataset_card.md.j2")
        .render(
            facts=facts,
            title=markdown.escaped(f"Self-play pairs of {facts.name}"),
            data=linked(facts.data, "dataset") if facts.data is not None else "a dataset that was given as an object",
            iterations=markdown.rows(
                ["configuration", "pairs", "generator", "revision", "hash of its weights", "answers that ended"],
                [_iteration(facts, one) for one in facts.pairs],
            ),
            sampling=_sampling_table(facts),
            forms=sorted({_FORMS.get(one.form, _RENDERED) for one in facts.pairs}),
            identical=sum(one.identical for one in facts.pairs),
            rows=sum(one.rows for one in facts.pairs),
            name=facts.repository or "path/to/this/folder",
            config=config_name(last),
            versions=markdown.named_values(facts.versions),
        )
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _iteration(facts: DatasetFacts, one: PairsInfo) -> list[str]:
    generator = facts.generators.get(one.iteration, Generator("unknown"))
    total = max(sum(one.finish_reasons.values()), 1)
    words = {"eos": "by themselves", "length": "cut at the limit"}
    shares = ", ".join(
        f"{100 * count / total:.1f} % {words.get(reason, markdown.escaped(reason) or 'unknown')}"
        for reason, count in sorted(one.finish_reasons.items())
    )
    return [
        markdown.code(config_name(one.iteration)),
        f"{one.rows:,}",
        markdown.escaped(generator.label),
        markdown.code(generator.where) if generator.where else "not on the Hub",
        markdown.code(generator.digest) if generator.digest else "unknown",
        shares or "none",
    ]


def _sampling_table(facts: DatasetFacts) -> str:
    """Settings with the values that they had in each iteration."""
    names = dict.fromkeys(name for values in facts.sampling.values() for name in values)
    numbers = [one.iteration for one in facts.pairs]
    return markdown.rows(
        ["setting", *(markdown.code(config_name(number)) for number in numbers)],
        [
            [
                markdown.code(name),
                *(markdown.code(str(facts.sampling.get(number, {}).get(name))) for number in numbers),
            ]
            for name in names
        ],
    )


def _size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((word for bound, word in bounds if rows < bound), "1M<n<10M")
