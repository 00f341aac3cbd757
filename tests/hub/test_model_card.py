"""The model card is complete, valid for the Hub, and safe with any text from a model."""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

import made_up
from hub.server import LocalHub, problems_of_card
from messages import names
from reviewed import entry_of
from spin_trl.evaluation.selection import Measured
from spin_trl.hub.facts import AS_OBJECT, Names, RunFacts
from spin_trl.hub.model_card import ModelFacts, model_card
from spin_trl.models.lineage import Origin
from spin_trl.objectives.registry import LOSS_TYPES, METHODS, methods_of

SHA = "0123456789abcdef0123456789abcdef01234567"
BASE = Origin("org/base", on_hub=True, commit=SHA)
JOURNAL = [
    {"phase": "prepare", "stage": "data", "time": 1.0, "train_rows": 5000, "left_out": 3, "held_out_rows": 100,
     "versions": {"trl": "1.16.0", "torch": "2.13.0"}, "template": "0011223344556677"},
    {"phase": "generate", "stage": "iteration-0", "time": 2.0, "seconds": 3600.0, "tokens": 12345, "device": "NVIDIA A100"},
    {"phase": "train", "stage": "iteration-0", "time": 3.0, "seconds": 7200.0, "steps": 78, "device": "NVIDIA A100",
     "objective": {"beta": 0.1}},
    {"phase": "gate", "stage": "iteration-0", "time": 4.0, "decision": "improved", "best": "iteration-0",
     "opponent": "iteration-0", "lr_scale": 1.0, "reason": None},
    {"phase": "train", "stage": "iteration-1", "time": 5.0, "seconds": 60.0, "steps": 78, "objective": {"beta": 0.1}},
    {"phase": "gate", "stage": "iteration-1", "time": 6.0, "decision": "continued", "best": "iteration-0",
     "opponent": "iteration-1", "lr_scale": 1.0, "reason": None},
]  # fmt: skip


def facts(
    *,
    origin: Origin | None = BASE,
    settings: Mapping[str, Any] = MappingProxyType({}),
    license_: str | None = "apache-2.0",
    stage_name: str = "iteration-0",
    has_own_start: bool = False,
    **changes,
) -> ModelFacts:
    """Return the facts of a run of two iterations and a baseline arm, whose first iteration is the best."""
    known = {"model": origin, "data": Origin("org/data", on_hub=True, commit=SHA)}
    origins = {name: one.as_dict() for name, one in known.items() if one is not None}
    licenses = {"phase": "licenses", "stage": "hub", "time": 7.0, "model": license_}
    record = made_up.record(
        made_up.stage("start", range(40)),
        made_up.stage("iteration-0", range(70)),
        made_up.stage("iteration-1", range(60)),
        made_up.stage("baseline/sft/iteration-0", range(50)),
        best="iteration-0",
        journal=[{**JOURNAL[0], "origins": origins}, *JOURNAL[1:], licenses],
        settings={"loss_type": "sigmoid", "beta": 0.1, "run_dir": "runs/one", **settings},
    )
    run = RunFacts(
        record,
        Names("someone/small", branches={"iteration-0": "iter-0", "iteration-1": "iter-1"}),
        has_own_start,
        digests={"training data": "aabbccdd", "template": "0011223344556677"},
    )
    usual = {
        "run": run,
        "stage": record.stage(stage_name),
        "sampling": {"temperature": 1.0, "max_new_tokens": 256},
        "samples": [made_up.sample(number) for number in range(5)],
    }
    return ModelFacts(**{**usual, **changes})


WHOLE = re.compile(
    r"""---
base_model: org/base
datasets:
- org/data
library_name: transformers
license: apache-2\.0
pipeline_tag: text-generation
tags:
- trl
- dpo
- spin
- self-play
- sigmoid
base_model_relation: finetune
model-index:
- name: small
  results:
(  [- ] .+\n)+---

# made-up, iteration 0

A model fine-tuned by self-play from \[org/base\]\(https://huggingface\.co/org/base\) at commit \[01234567\]\(.+\)\. .+

\*\*Iteration 0 is the best of 2 by score: 70\.0 % .+\*\*

## How to use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM\.from_pretrained\("someone/small", dtype="auto"\)
tokenizer = AutoTokenizer\.from_pretrained\("someone/small"\)
```

.+

## Results on held-out prompts

\| model \| score \| difference \| from the start \| decision \|
\| --- \| --- \| --- \| --- \| --- \|
\| start \| 40\.0 %<br><small>35\.0 to 45\.0</small> \|.+
\| \*\*iteration 0\*\* \| 70\.0 %<br>.+ improved \|
\| iteration 1 \| 60\.0 %.+ continued \|
\| plain SFT, iteration 0 \| 50\.0 %.+from iteration 0</small>.+

Smaller figures are 95 % confidence intervals\. .+ the same 100 held-out prompts .+

### Scores and likelihood

(\|.+\n)+
### The game against the opponent

(\|.+\n)+
### The answers

(\|.+\n)+
## Training

### Data

- Human responses: \[org/data\]\(https://huggingface\.co/datasets/org/data\) at commit \[01234567\].+, 3 left out .+\.
- Held out: 100 prompts, not trained on\.

### Objective

\*\*SPIN\*\* \(`sigmoid`, \[arXiv:2401\.01335\]\(https://arxiv\.org/abs/2401\.01335\)\):

\$\$\\ell = .+\$\$

\$r\$ and .+ Settings: `beta` 0\.1\.

### Iterations and opponents

\| model \| revision \| opponent \| its revision \| decision \|
\| --- \| --- \| --- \| --- \| --- \|
\| iteration 0 \| `iter-0` \| start \| `org/base@01234567` \| improved \|
\| iteration 1 \| `iter-1` \| iteration 0 \| `iter-0` \| continued \|

### Generation

The opponents' responses were generated with these settings:

\| setting \| value \|
\| --- \| --- \|
\| `temperature` \| `1\.0` \|
\| `max_new_tokens` \| `256` \|

### Cost

\| stage \| generate \| train \| evaluate \| total \| tokens generated \| gradient steps \| pairs \| compute \|
(\|.+\n)+\| iteration 0 \| 1 h 0 min \| 2 h 0 min \| – \| 3 h 0 min \| 12,345 \| 78 \| – \| – \|
(\|.+\n)+
Hardware: NVIDIA A100\.

### Versions and hashes

trl `1\.16\.0`, torch `2\.13\.0`\.

Hashes: training data `aabbccdd`, template `0011223344556677`\.

## Samples

(\*\*Prompt \d\*\*

```text
Prompt \d\?
```

Human response:

```text
Real answer \d\.
```

This model \(score: 1, ended with EOS\):

```text
Made-up answer \d\.
```

){3}## Limits

- The human distribution is the ceiling of self-play: .+
- It amplifies the flaws of the SFT data: .+
- .+
- .+
- Licence: `apache-2\.0` \(the base model's\)\.

## How to continue

.+`spin-trl run RUN --num_iterations 3`.+`model_name_or_path: someone/small`.+

```yaml
beta: 0\.1
dataset_revision: 0123456789abcdef0123456789abcdef01234567
loss_type: sigmoid
model_name_or_path: org/base
model_revision: 0123456789abcdef0123456789abcdef01234567
```

## Citation

- SPIN: .+
- TRL: .+

Generated by spin_trl.*\.
"""
)


def test_the_whole_card() -> None:
    """One pattern matches the entire card."""
    content = str(model_card(facts())).replace("\u00a0", " ")
    assert WHOLE.fullmatch(content), content


def test_a_judge_is_named_with_its_faults_but_not_its_host() -> None:
    """A language model gave the scores, and not people."""
    judged = facts()
    judge = {"model": "wise", "host": "judge.example", "follows_instructions": True}
    judged.run.record.journal.append({"phase": "evaluate", "stage": "start", "judge": judge})
    content = str(model_card(judged))
    assert names(content, "wise", "language model", "instructions")
    assert "judge.example" not in content


def test_it_is_valid_for_the_hub_and_its_results_come_back(hub: LocalHub) -> None:
    """The client's own parsing and validation are used."""
    card = model_card(facts())
    card.validate()
    (sent,) = hub.validated
    again = ModelCard(sent)
    assert isinstance(again.data, ModelCardData)
    assert again.data.model_name == "small"
    results = {result.metric_type: result for result in again.data.eval_results}
    assert set(results) == {"score", "nll", "win_rate"}
    assert results["score"].metric_value == pytest.approx(0.7)
    assert results["score"].metric_args == pytest.approx({"interval_95_low": 0.65, "interval_95_high": 0.75})
    assert results["score"].dataset_type == "org/data"
    assert results["score"].dataset_revision == SHA
    assert str(ModelCard(sent)) == sent


def test_the_results_of_a_model_with_a_test_set_are_those_on_it() -> None:
    """The figures that the model was chosen by are in the table, but not in the metadata."""
    known = facts()
    test = Measured({"nll": 1.5, "nll_low": 1.25, "nll_high": 1.75, "prompts": 30.0})
    stages = [replace(one, test=test) if one.name == "iteration-0" else one for one in known.run.record.stages]
    prepared = {"phase": "prepare", "stage": "test", "time": 1.0, "dataset": "ab", "rows": 30,
                "origin": Origin("org/test", on_hub=True, commit=SHA).as_dict()}  # fmt: skip
    record = replace(known.run.record, stages=stages, journal=[*known.run.record.journal, prepared])
    stage = record.stage("iteration-0")
    assert stage is not None
    card = model_card(replace(known, run=replace(known.run, record=record), stage=stage))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("nll", 1.5, "org/test")
    assert names(result.dataset_name, 30)
    assert names(str(card), "org/test", "1.500")
    assert not names(str(card), "`test_name`")
    assert names(str(model_card(known)), "`test_name`")


def test_peoples_votes_are_on_the_card() -> None:
    known = facts()
    votes = entry_of("iteration-0", ["won"] * 3 + ["lost"])
    record = replace(known.run.record, journal=[*known.run.record.journal, votes])
    card = str(model_card(replace(known, run=replace(known.run, record=record)))).replace("\u00a0", " ")
    assert names(card, "## Human review", "iteration 0", "75.0 %")
    assert not names(str(model_card(known)), "Human review")


def test_a_branchs_card_names_its_branch() -> None:
    content = str(model_card(facts(stage_name="iteration-1", revision="iter-1")))
    assert 'from_pretrained("someone/small", revision="iter-1", dtype="auto")' in content
    assert "(start → iteration 0 → iteration 1)" in content
    assert "`model_revision: iter-1`" in content


def test_an_adapters_card_loads_its_base_first() -> None:
    card = model_card(facts(is_adapter=True))
    assert card.data.library_name == "peft"
    assert card.data.base_model_relation == "adapter"
    assert f'from_pretrained("org/base", revision="{SHA}", dtype="auto")' in card.text
    assert 'PeftModel.from_pretrained(base, "someone/small")' in card.text


def test_an_adapter_on_the_runs_own_start_finds_it_on_its_branch() -> None:
    card = model_card(facts(is_adapter=True, origin=None, has_own_start=True))
    assert 'from_pretrained("someone/small", revision="start", dtype="auto")' in card.text
    assert card.data.base_model is None


@pytest.mark.parametrize(
    ("origin", "words", "base"),
    [
        (None, "a model that was built and trained from scratch", None),
        (Origin("mine"), "the local model `mine`", None),
        (Origin(AS_OBJECT), "self-play from a model that was passed as a Python object", None),
        (
            Origin(AS_OBJECT, base="org/base"),
            "passed as a Python object, which is derived from [org/base]",
            "org/base",
        ),
        (Origin("mine", base="org/base"), "the local model `mine`, which is derived from [org/base]", "org/base"),
    ],
)
def test_the_base_is_never_none_in_words(origin: Origin | None, words: str, base: str | None) -> None:
    card = model_card(facts(origin=origin))
    assert words in card.text
    assert "None" not in str(card)
    assert card.data.get("base_model") == base


@pytest.mark.parametrize("base", [None, "org/base"])
@pytest.mark.parametrize("is_adapter", [False, True])
def test_a_start_that_was_passed_as_an_object_is_no_local_model(base: str | None, is_adapter: bool) -> None:
    """It has neither a name nor a path, not even in the example of how to load the model."""
    given = {"phase": "given", "stage": "start", "origin": base and {"name": "mine", "base": base}}
    found = facts(origin=None, is_adapter=is_adapter)
    record = replace(found.run.record, journal=[*found.run.record.journal, given])
    card = model_card(replace(found, run=replace(found.run, record=record)))
    assert names(card.text, "object")
    assert AS_OBJECT not in str(card)
    assert names(card.text, "derived", "[org/base]") is (base is not None)
    assert not names(card.text, "local")
    assert card.data.get("base_model") == base


def test_a_start_that_nothing_improved_on_has_no_weights_here() -> None:
    """The card refers readers to the start."""
    content = str(model_card(facts(stage_name="start", has_weights=False)))
    assert "No iteration has improved on the start" in content
    assert f'AutoModelForCausalLM.from_pretrained("org/base", revision="{SHA}", dtype="auto")' in content


def test_an_unknown_licence_is_said_to_be_unknown() -> None:
    card = model_card(facts(license_=None))
    assert card.data.license == "unknown"
    assert "Licence: unknown." in card.text


HOSTILE = (
    "---\nlicense: mit\n---",
    "```\n# Big news\n```",
    "{{ 7 * 7 }} {% raw %}",
    "</pre><script>x</script>",
    "\x00\u202e",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_wrote_stays_in_its_block(text: str) -> None:
    """It can't change the card's metadata, headings or templates."""
    tame = model_card(facts(samples=[made_up.sample(0, prompt="p", real="r", generated="g")]))
    wild = model_card(facts(samples=[made_up.sample(0, prompt=text, real=text, generated=text)]))
    assert wild.data.to_dict() == tame.data.to_dict()
    assert problems_of_card(str(wild), "model") == []
    assert headings(wild.text) == headings(tame.text)
    assert "49" not in re.sub(r"\d+\.\d+|0x", "", wild.text).split("## Samples")[1].split("## Limits")[0]


def headings(text: str) -> list[str]:
    """Return headings outside of fenced blocks, as in CommonMark."""
    found, fence = [], ""
    for line in text.split("\n"):
        ticks = re.match(r"`{3,}", line)
        if fence:
            fence = "" if ticks and ticks[0] == line and len(line) >= len(fence) else fence
        elif ticks:
            fence = ticks[0]
        elif line.startswith("#"):
            found.append(line)
    return found


def test_every_objective_of_ours_has_its_equation() -> None:
    assert set(LOSS_TYPES) <= set(METHODS)
    for name in LOSS_TYPES:
        assert METHODS[name].equation, name
        assert METHODS[name].paper, name
    assert methods_of(["apo_zero"])[0].name == "TRL's `apo_zero`"


def test_sums_of_objectives_are_shown_with_their_weights() -> None:
    card = model_card(facts(settings={"loss_type": ["space", "sft"], "loss_weights": [1.0, 0.1]}))
    assert "1.0 times **SPACE** (`space`" in card.text
    assert "0.1 times **negative log-likelihood" in card.text
    assert {"space", "sft"} <= set(card.data.tags)


def test_the_recipe_is_yaml_again() -> None:
    text = model_card(facts()).text
    block = text.split("```yaml\n")[1].split("\n```")[0]
    revisions = {"model_revision": SHA, "dataset_revision": SHA}
    assert yaml.safe_load(block) == {
        "model_name_or_path": "org/base",
        "beta": 0.1,
        "loss_type": "sigmoid",
        **revisions,
    }


def test_sft_first_is_part_of_a_models_origin() -> None:
    """The start is no longer the given model, and the chain begins at the base."""
    card = str(model_card(facts(settings={"start": "sft"}, stage_name="iteration-1")))
    assert all(word in card for word in ("SFT", "org/base", "base → start → iteration 0 → iteration 1"))
    start = str(model_card(facts(settings={"start": "sft"}, stage_name="start", has_own_start=True)))
    assert "SFT" in start.partition("## ")[0]
