"""docs/reference/models.md shows what happens when a tiny model of every family is tried."""

from pathlib import Path
from typing import Any

import pytest

import tiny
from compatibility.check import COLUMNS, Trial, row
from compatibility.families import FAMILIES, FOLDER, LEFT_OUT, ModelFamily
from compatibility.table import PAGE, block, read, rendered
from spin_trl import SPINConfig
from spin_trl.generation.engines.transformers import TransformersEngine

WRITE = "`.venv/bin/python tests/compatibility/write_table.py` tries every family, and writes the page"
TABLE = block(PAGE.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_page_shows_what_a_family_does(family: ModelFamily, tmp_path: Path) -> None:
    """These are generation, training, sharing, saving, LoRA and 4-bit, each with the reason if it is not possible."""
    assert row(family, tmp_path) == read(TABLE).get(family.name), WRITE


def test_the_page_shows_every_family_and_the_versions_that_were_tried() -> None:
    """It also has examples, what is left out, and the versions of constraints.txt."""
    rows = read(TABLE)
    assert list(rows) == [family.name for family in FAMILIES], WRITE
    assert rendered(rows) == TABLE, WRITE


def test_every_template_of_trls_has_a_family() -> None:
    """This fails if a new release of TRL adds templates: they get a family, or a reason for being left out."""
    shipped = {path.stem.removesuffix("_training") for path in FOLDER.glob("*.jinja")}
    assert shipped == {name for family in FAMILIES for name in family.templates} | LEFT_OUT.keys()


def llama() -> ModelFamily:
    (family,) = (family for family in FAMILIES if family.architecture == "llama")
    return family


def test_what_fails_is_said_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a check, nothing is claimed."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no\n  luck")

    monkeypatch.setattr(Trial, "_trainer", refuse)
    monkeypatch.setattr("spin_trl.data.template.rendering.ConversationRenderer.render", refuse)
    cells = row(llama(), tmp_path)
    expected = ["no: no luck", "yes", "no: no luck", "–", "–", "no: no luck", "no: no luck"]
    assert cells == dict(zip(COLUMNS, expected, strict=True))


def test_answers_that_are_mixed_up_show_and_so_does_training_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt gets its neighbour's answer, or the learning rate is 0."""
    generate, settings = TransformersEngine._generate, Trial._settings

    def idle(*args: Any, **kwargs: Any) -> SPINConfig:
        result = settings(*args, **kwargs)
        result.learning_rate = 0.0
        return result

    monkeypatch.setattr(TransformersEngine, "_generate", lambda *arguments: generate(*arguments)[::-1])
    monkeypatch.setattr(Trial, "_settings", idle)
    cells = row(llama(), tmp_path)
    assert cells["answers"] == "no: a prompt's answer depends on those that are answered with it"
    assert cells["training"].startswith("no: weights don't move: model.embed_tokens.weight, ")
    assert cells["LoRA"] == cells["4-bit"] == "no: training moves nothing"


@pytest.mark.slow
def test_models_that_load_with_other_weights_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaded model differs from the trained one, or the adapter's base is another model."""
    other = tiny.model("llama", seed=1, vocab_size=len(llama().tokenizer()))
    monkeypatch.setattr("compatibility.check.loaded", lambda _: other)
    cells = row(llama(), tmp_path)
    assert cells["saved"].startswith("no: its log-probabilities differ by ")
    assert cells["LoRA"].startswith("no: its log-probabilities differ by ")
    assert cells["training"] == cells["4-bit"] == "yes"


def test_the_table_is_read_as_it_was_written() -> None:
    """Every note appears once, under a letter, with any content."""
    rows = {family.name: dict.fromkeys(COLUMNS, "yes") for family in FAMILIES}
    first, second, *_ = rows.values()
    first |= {"template": "no: '<think>\\n' stands | there", "LoRA": "yes: with <all>", "saved": "–"}
    second |= {"4-bit": "no: with <all>", "LoRA": "yes: with <all>"}
    text = rendered(rows)
    assert read(text) == rows
    assert text.count("all>") == 1
    assert "- (a) '\\<think>\\\\n' stands | there" in text
