"""The page is one file without external requests, in which everything from a run is shown as text."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from made_up import record, sample, stage
from spin_trl.report.charts import all_charts
from spin_trl.report.html.page import render
from spin_trl.report.html.samples import Shown, choose_samples, sections
from spin_trl.report.tables import costs, facts, figures, standings
from spin_trl.report.verdict import remarks, verdict

HOSTILE = (
    "<script>alert(1)</script>", "</style><script>alert(2)</script>", "]]><img src=x onerror=alert(3)>", '"><b onclick="x">',
    "'><iframe src='http://evil.example/'>", "{{ 7 * 7 }}{% include 'report.css' %}", "<!-- ", "&lt;i&gt;",
    "</textarea></pre>",
)  # fmt: skip


class Reader(HTMLParser):
    """Parser that collects the elements of a page with their attributes, and its visible text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "style":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            self.open.remove(tag)

    def handle_data(self, data):
        if not self.open:
            self.text += data

    def tags(self):
        return Counter(tag for tag, _ in self.elements)


def page_of(text: str) -> dict[str, object]:
    """Return a page that contains one text wherever a run's own texts can appear."""
    gate = {"phase": "gate", "stage": "iteration-0", "decision": text, "opponent": "iteration-0", "reason": text}
    cost = {"phase": "train", "stage": "iteration-0", "seconds": 1.0, "device": text, "pairs": {"total": 1}}
    settings = {"model_name_or_path": text, "dataset_name": text, "loss_type": [text], "scorer": [text]}
    figures_of = {"score": 0.5, f"score/{text}": 0.5}
    run = record(
        stage("start", range(20)),
        stage("iteration-0", figures=figures_of),
        stage(f"baseline/{text.replace('/', '')}/iteration-0", range(20)),
        best="iteration-0",
        name=text,
        settings=settings,
        journal=[gate, cost],
    )
    row = sample(
        0, prompt=[{"role": text, "content": text, "tool_calls": text}], real=text, generated=f"other {text}",
        finish_reason=text, score={text: 1.0},
    )  # fmt: skip
    shown = sections(
        choose_samples([row["key"]], {}, {}),
        {row["key"]: 1},
        {text: {row["key"]: row}, "start": {row["key"]: row}},
        text,
    )
    return {
        "name": text,
        "verdict": verdict(run),
        "remarks": remarks(run),
        "warnings": [text],
        "facts": facts(run),
        "standings": standings(run),
        "figures": figures(run),
        "on_choice": text,
        "final_test": standings(run),
        "retention": standings(run),
        "reviews": standings(run),
        "review_note": text,
        "costs": costs(run),
        "groups": all_charts(run),
        "shown": Shown(text, text, 1, shown),
        "settings": text,
        "versions": {text: text},
        "digests": {text: text},
        "period": text,
        "devices": text,
        "made_by": text,
    }


HARMLESS = Reader(render(page_of("harmless")))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_text_wherever_they_stand(text):
    found = Reader(render(page_of(text)))
    assert found.tags().keys() <= HARMLESS.tags().keys()
    single = ("html", "head", "body", "style", "title", "main", "meta", "pre", "article", "figure", "svg", "table")
    assert {tag: found.tags()[tag] for tag in single} == {tag: HARMLESS.tags()[tag] for tag in single}
    assert found.text.count(text) >= 20
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]


def test_a_page_has_no_script_and_asks_for_nothing():
    for tag, attributes in HARMLESS.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "form", "base")
        assert attributes.get("href", "#").startswith("#"), attributes
        assert not {"src", "srcset", "action", "data", "poster", "background"} & attributes.keys()
    page = render(page_of("harmless"))
    assert not re.search(r"@import|url\((?!#)|https?://|<script", page)
    policies = [of["content"] for tag, of in HARMLESS.elements if tag == "meta" and "http-equiv" in of]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_what_can_not_be_seen_or_written_is_named():
    page = render(page_of("a\x00b\u202ec\ud800d"))
    page.encode()
    assert "a␀b⟨U+202E⟩c⟨U+D800⟩d" in page
    assert not re.search("[\x00-\x08\u202e]", page)


def test_the_page_is_one_that_everybody_can_read():
    """It has a language, a title and a viewport, headings in order, tables with headers, labelled plots, and unique ids."""
    elements = HARMLESS.elements
    assert ("html", {"lang": "en"}) in elements
    assert any(of.get("name") == "viewport" and "width=device-width" in of["content"] for _, of in elements)
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(of.get("scope") in ("row", "col") for tag, of in elements if tag == "th")
    assert all(of.get("role") == "img" and of.get("aria-label") for tag, of in elements if tag == "svg")
    ids = [of["id"] for _, of in elements if "id" in of]
    assert len(ids) == len(set(ids))
    assert {of["href"][1:] for tag, of in elements if tag == "a"} <= set(ids)
    assert all("dir" in of for _, of in elements if of.get("class") == "text")


def test_the_style_knows_dark_rooms_narrow_screens_and_paper():
    page = render(page_of("harmless"))
    for part in (
        "prefers-color-scheme: dark",
        "color-scheme: light dark",
        "@media print",
        "break-inside: avoid",
        "max-width: 40rem",
    ):
        assert part in page


def test_a_page_of_a_run_without_anything_is_a_page():
    run = record()
    empty = page_of("harmless") | {
        "verdict": verdict(run), "standings": standings(run), "figures": {}, "groups": [], "shown": None, "remarks": [],
        "on_choice": "", "final_test": None, "retention": None, "reviews": None, "review_note": None,
        "warnings": [], "facts": {}, "costs": costs(run), "versions": {}, "digests": {}, "period": "", "devices": "",
    }  # fmt: skip
    found = Reader(render(empty))
    assert "Nothing has been measured yet." in found.text
    assert "No model has been trained yet." in found.text
    assert {of["href"] for tag, of in found.elements if tag == "a"} == {
        "#iterations",
        "#settings",
        "#versions",
        "#cost",
    }


def test_the_best_is_marked_and_differences_are():
    page = render(page_of("harmless"))
    assert page.count('<span class="badge">best</span>') == 1
    assert "<mark>other </mark>" in page or "<mark>other</mark>" in page
