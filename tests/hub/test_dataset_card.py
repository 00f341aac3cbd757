"""The card of the generated pairs: synthetic, with a configuration an iteration and where everything comes from."""

import re
from dataclasses import replace
from typing import Any

import yaml
from huggingface_hub import DatasetCard

import made_up
from hub.server import LocalHub
from spin_trl.hub.dataset import MESSAGES_LAYOUT, PairsInfo
from spin_trl.hub.dataset_card import dataset_card
from spin_trl.hub.facts import Names, RunFacts

SHA = "0123456789abcdef0123456789abcdef01234567"


def card(*, is_known: bool = True) -> DatasetCard:
    """Of a run of two iterations, where licence, data and who answered are known or not."""
    prepared = {"phase": "prepare", "stage": "data", "template": "00112233", "versions": {"trl": "1.16.0"}}
    prepared["origins"] = {"data": {"name": "org/data", "on_hub": True, "commit": SHA}} if is_known else {}
    licenses = {"phase": "licenses", "stage": "hub", "data": "mit" if is_known else None}
    record = made_up.record(name="my-run", journal=[prepared, licenses])
    names = Names("someone/small", "someone/small-pairs")
    pairs = [
        PairsInfo(0, MESSAGES_LAYOUT, 1000, {"eos": 900, "length": 100}, 5),
        PairsInfo(1, MESSAGES_LAYOUT, 1000, {"eos": 1000}, 10),
    ]
    generators: list[dict[str, Any]] = [
        {"label": "start", "where": f"org/base@{SHA}", "digest": "aabb", "sampling": {"temperature": 1.0}},
        {"label": "iteration 0", "where": "someone/small@iter-0", "digest": "ccdd", "sampling": {"temperature": 0.7}},
    ]
    if not is_known:
        generators = [{"label": "unknown"}] * 2
    answered = [replace(one, **by) for one, by in zip(pairs, generators, strict=True)]
    return dataset_card(RunFacts(record, names), answered)


WHOLE = re.compile(
    r"""---
annotations_creators:
- no-annotation
language_creators:
- machine-generated
license: mit
size_categories:
- 1K<n<10K
source_datasets:
- org/data
task_categories:
- text-generation
pretty_name: Self-play pairs of my-run
tags:
- synthetic
(- .+\n)+configs:
- config_name: iteration-0
  data_files:
  - split: train
    path: iteration-0/\*\.parquet
- config_name: iteration-1
  data_files:
  - split: train
    path: iteration-1/\*\.parquet
  default: true
---

# Self-play pairs of my-run

\*\*Synthetic\.\*\* .+ \[org/data\]\(.+\) at commit \[01234567\]\(.+\); .+ \(\[someone/small\]\(.+\)\): .+

```python
from datasets import load_dataset

pairs = load_dataset\("someone/small-pairs", "iteration-1", split="train"\) .+
```

## Iterations

\| configuration \| pairs \| generator \| revision \| hash of its weights \| answers that ended \|
\| --- \| --- \| --- \| --- \| --- \| --- \|
\| `iteration-0` \| 1,000 \| start \| `org/base@.+` \| `aabb` \| 90\.0 % by themselves, 10\.0 % cut at the limit \|
\| `iteration-1` \| 1,000 \| iteration 0 \| `someone/small@iter-0` \| `ccdd` \| 100\.0 % by themselves \|

2,000 pairs; in 15 of them .+

## Columns

(\|.+\n)+
.+finish_reason.+

## How the answers were generated

\| setting \| `iteration-0` \| `iteration-1` \|
\| --- \| --- \| --- \|
\| `temperature` \| `1\.0` \| `0\.7` \|

Hash of tokenizer and chat template: `00112233`\. Versions: trl `1\.16\.0`\.

## Limits

- .+
- .+
- Licence: `mit` \(the source dataset's\)\. .+

Made by spin_trl.*\.
"""
)


def test_the_whole_card() -> None:
    """One pattern over all of it."""
    content = str(card())
    assert WHOLE.fullmatch(content), content


def test_it_is_valid_for_the_hub_and_can_be_read_back(hub: LocalHub) -> None:
    sent = card()
    sent.validate()
    again = DatasetCard(hub.validated[0])
    assert again.data.to_dict() == sent.data.to_dict()
    assert [config["config_name"] for config in again.data.configs] == ["iteration-0", "iteration-1"]


def test_what_is_not_known_is_said() -> None:
    unknown = card(is_known=False)
    assert yaml.safe_load(str(unknown).split("---")[1])["license"] == "unknown"
    assert "Licence: unknown." in unknown.text
    assert "a dataset that was given as an object" in unknown.text
    assert "| unknown | not on the Hub | unknown |" in unknown.text
    assert "None" not in str(unknown)


def test_reasons_that_are_damaged_are_unknown() -> None:
    """A shard that someone has written to may hold anything there."""
    record = made_up.record(name="my-run", journal=[])
    pairs = PairsInfo(0, MESSAGES_LAYOUT, 4, {None: 1, "eos": 2, 3: 1}, 5)  # type: ignore[dict-item]
    said = str(dataset_card(RunFacts(record, Names("someone/small", "someone/small-pairs")), [pairs]))
    assert "25.0 % unknown" in said
