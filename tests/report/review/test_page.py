"""The review page is one file without requests, whose data can't leave their place, and can't tell whose an answer is."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from spin_trl.report.review.page import render_page, render_shell, shell_policy, shown_data

HOSTILE = (
    "</script><script>alert(1)</script>", "<!-- <script>", "]]>", "&lt;/script&gt;", "{{ 7 * 7 }}{% raw %}",
    "a\u2028b\u2029c", '"\\</script', "\u202eesrever", "\x00\ud83d",
)  # fmt: skip


class Reader(HTMLParser):
    """Parser that collects the elements of a page, and the content of its scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.contents, self.text, self._open = [], [], "", None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.contents.append((*self._open, data))
        else:
            self.text += data

    def content(self, tag, **attributes):
        (found,) = [text for of, given, text in self.contents if of == tag and given == attributes]
        return found

    def policy(self):
        (found,) = [given["content"] for tag, given in self.elements if tag == "meta" and "http-equiv" in given]
        return dict(part.strip().split(" ", 1) for part in found.split(";"))

    def data(self):
        return json.loads(self.content("script", type="application/json", id="data"))


def data_of(text, **more):
    """Return the data of a page with one pair in which a text stands wherever texts can stand."""
    shown = {"text": text, "left_out": 3}
    pair = {"id": "pair-1", "prompt": [{"role": text, **shown}], "left": shown, "right": shown, **more}
    return {"format": 1, "run": "run-1", "name": text, "title": text, "page": "digest", "pairs": [pair], **more}


HARMLESS = Reader(render_page(data_of("harmless")))


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_data(text):
    page = render_page(data_of(text))
    page.encode()
    found = Reader(page)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in HARMLESS.elements]
    assert found.data() == shown_data(data_of(text))
    embedded = found.content("script", type="application/json", id="data")
    assert not set(embedded) & {"<", ">", "&", "\u2028", "\u2029"}
    assert embedded.isascii()


def test_ids_are_embedded_as_they_are_and_texts_with_their_invisible_characters_named():
    odd = "a\u2028\u202e</script>"
    found = Reader(render_page(data_of("x\u202ey\x00", id=odd))).data()
    assert found["pairs"][0]["id"] == odd
    pair = found["pairs"][0]
    shown = [found["name"], found["title"], pair["left"]["text"], pair["prompt"][0]["text"], pair["prompt"][0]["role"]]
    assert shown == ["x⟨U+202E⟩y␀"] * 5


def test_nothing_but_the_known_fields_reaches_the_page():
    told = data_of("harmless", model="iteration-7")
    told["pairs"][0]["left"] = {"text": "a", "left_out": 0, "stage": "iteration-7"}
    told["pairs"][0]["prompt"][0]["stage"] = "iteration-7"
    page = render_page(told)
    assert "iteration-7" not in page
    assert Reader(page).data()["pairs"][0]["left"] == {"text": "a", "left_out": 0}


def hash_of(text):
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@pytest.mark.parametrize(("page", "connect"), [(render_page(data_of("a")), "'none'"), (render_shell(), "'self'")])
def test_the_policy_allows_this_script_and_this_style_and_nothing_else(page, connect):
    found = Reader(page)
    assert found.policy() == {
        "default-src": "'none'",
        "script-src": hash_of(found.content("script", type="module")),
        "style-src": hash_of(found.content("style")),
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for tag, attributes in found.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "a")
        assert not {"src", "srcset", "href", "action", "data", "poster", "style"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"@import|url\(|https?://", page)


def test_the_shell_has_the_policy_of_the_server_and_no_data():
    found = Reader(render_shell())
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": shell_policy()}) in found.elements
    assert [given for tag, given in found.elements if tag == "script"] == [{"type": "module"}]


def test_the_script_makes_no_elements_of_a_text():
    script = HARMLESS.content("script", type="module")
    assert "textContent" in script
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|DOMParser|srcdoc", script
    )


def test_choices_and_reasons_are_those_of_a_vote():
    def values(name):
        return [given[name] for _, given in HARMLESS.elements if name in given]

    assert values("data-choice") == ["left", "right", "both_good", "both_bad", "skip"]
    assert values("data-reason") == ["wrong", "incomplete", "invented", "rude", "format", "other"]
    assert [given["maxlength"] for tag, given in HARMLESS.elements if tag == "textarea"] == ["2000"]


def test_texts_that_are_typed_are_no_longer_than_a_file_of_votes_may_have_them():
    limits = {found["id"]: found["maxlength"] for _, found in Reader(render_shell()).elements if "maxlength" in found}
    assert limits == {"name": "80", "note": "2000"}


def test_the_page_is_one_that_everybody_can_use():
    """It has a language, one main heading, unique ids, labels that refer to something, and a key for every action."""
    elements = HARMLESS.elements
    assert ("html", {"lang": "en"}) in elements
    assert any(given.get("name") == "viewport" for _, given in elements)
    assert [tag for tag, _ in elements].count("h1") == 1
    assert {"header", "main"} <= {tag for tag, _ in elements}
    ids = [given["id"] for _, given in elements if "id" in given]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-describedby", "for"):
        assert {given[name] for _, given in elements if name in given} <= set(ids)
    keys = [given["aria-keyshortcuts"].split()[0] for _, given in elements if "aria-keyshortcuts" in given]
    assert sorted(keys) == sorted([*"1234", *"SBN", *"WIVRFO", *"TXCDA", "B"])  # B goes back from two screens
    for given in (given for _, given in elements if "data-choice" in given or "data-reason" in given):
        assert "aria-keyshortcuts" in given
    assert all(re.search(rf"\b{key}\b", HARMLESS.text) for key in keys), "a key is not shown"
    assert any(given.get("role") == "status" for _, given in elements)
    assert "prefers-color-scheme: dark" in HARMLESS.content("style")
