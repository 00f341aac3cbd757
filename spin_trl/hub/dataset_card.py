"""The card of the dataset of a run's generated pairs: one configuration per iteration, with its provenance."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import DatasetCard, DatasetCardData

from . import markdown
from .dataset import MESSAGES_LAYOUT, PLAIN, RENDERED, PairsInfo
from .facts import PLACEHOLDER, UNKNOWN_LICENSE, RunFacts, card_text

FORMS_IN_WORDS = {
    MESSAGES_LAYOUT: "lists of messages (`role`, `content`)",
    PLAIN: "text",
    RENDERED: "text rendered by the chat template, special tokens included",
}
"""The forms of pairs, as a card describes them."""

_HOW_ENDED = {"eos": "ended with EOS", "length": "truncated at the length limit"}


def config_name(iteration: int) -> str:
    """Return the name of an iteration's configuration, which is also the folder of its files."""
    return f"iteration-{iteration}"


def dataset_card(run: RunFacts, pairs: Sequence[PairsInfo]) -> DatasetCard:
    """Return the card of the pairs.

    Args:
        run: facts shared by all cards of the run.
        pairs: information about each iteration's pairs, in order.
    """
    last = max((one.iteration for one in pairs), default=0)
    data = DatasetCardData(
        annotations_creators=["no-annotation"],
        language_creators=["machine-generated"],
        license=run.license_of("data")[0] or UNKNOWN_LICENSE,
        pretty_name=f"Self-play pairs of {run.record.name}",
        size_categories=[_size_category(sum(one.rows for one in pairs))],
        source_datasets=[run.data.name] if run.data is not None and run.data.on_hub else None,
        task_categories=["text-generation"],
        tags=["synthetic", "preference", "self-play", "spin", "trl", "dpo"],
        configs=[
            {
                "config_name": config_name(one.iteration),
                "data_files": [{"split": "train", "path": f"{config_name(one.iteration)}/*.parquet"}],
                **({"default": True} if one.iteration == last else {}),
            }
            for one in pairs
        ],
    )
    headings = ["configuration", "pairs", "generator", "revision", "hash of its weights", "how responses ended"]
    text = card_text(
        "dataset_card.md.j2",
        data,
        run=run,
        pairs=pairs,
        iterations=markdown.rows(headings, [_iteration(one) for one in pairs]),
        sampling=_sampling_table(pairs),
        forms=sorted({FORMS_IN_WORDS[one.form] for one in pairs}),
        placeholder=PLACEHOLDER,
        config=config_name(last),
    )
    return DatasetCard(text)


def _iteration(one: PairsInfo) -> list[str]:
    total = max(sum(one.finish_reasons.values()), 1)
    shares = ", ".join(
        f"{100 * count / total:.1f} % {_HOW_ENDED.get(reason) or markdown.escaped(str(reason or '')) or 'unknown'}"
        for reason, count in sorted(one.finish_reasons.items(), key=str)  # a damaged shard may hold any value
    )
    return [
        markdown.code(config_name(one.iteration)),
        f"{one.rows:,}",
        markdown.escaped(one.label),
        markdown.code(one.where) if one.where else "not on the Hub",
        markdown.code(one.digest) if one.digest else "unknown",
        shares or "none",
    ]


def _sampling_table(pairs: Sequence[PairsInfo]) -> str:
    """Return a table of the sampling settings with their values in each iteration."""
    names = dict.fromkeys(name for one in pairs for name in one.sampling)
    return markdown.rows(
        ["setting", *(markdown.code(config_name(one.iteration)) for one in pairs)],
        [[markdown.code(n), *(markdown.code(str(one.sampling.get(n))) for one in pairs)] for n in names],
    )


def _size_category(rows: int) -> str:
    """Return the Hub's size category for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((word for bound, word in bounds if rows < bound), "1M<n<10M")
