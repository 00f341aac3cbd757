"""The page on which people compare two answers without knowing whose they are: one file with its style, script and data.

Texts of a run reach the page as data only. The script puts them there with `textContent`, and the content security policy
names the one script and the one style that may be used, by their hashes. The file may make no request at all. The page that
the local server delivers may only send requests to it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from ...errors import visible
from ..html.page import template_environment
from .votes import LONGEST_NOTE, LONGEST_REVIEWER

_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})


def render_page(data: Mapping[str, Any]) -> str:
    """Render the self-contained file `review.html`.

    Args:
        data: pairs to compare, as [`shown_data`] describes them.
    """
    shown = shown_data(data)
    return _render(title=f"{shown['name']}: review, {shown['title']}", data=_embedded(shown), policy=_policy("'none'"))


def render_shell() -> str:
    """Render the page without data, for the local server: its script fetches them."""
    return _render(title="Review of answers", data=None, policy=shell_policy())


def shell_policy() -> str:
    """Return the content security policy of the page without data. Its script may send requests to its own server."""
    return _policy("'self'")


def shown_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page is given: the known fields alone, with invisible characters of texts written out by name.

    A field that is not listed here can't reach the page, and so can't tell whose an answer is.

    Args:
        data: `format` (1), `run`, `name` (of the run), `title` (what is compared), `page` (digest) and `pairs`. A pair has
            an `id`, a `prompt`, which is a list of messages (`role`, `text`, `left_out`), and the answers `left` and `right`
            (`text`, `left_out`). `left_out` is the number of characters by which the text was shortened.
    """
    return {
        **{name: data[name] for name in ("format", "run", "page")},
        **{name: visible(data[name]) for name in ("name", "title")},
        "pairs": [
            {
                "id": pair["id"],
                "prompt": [{"role": visible(message["role"]), **_shown_text(message)} for message in pair["prompt"]],
                "left": _shown_text(pair["left"]),
                "right": _shown_text(pair["right"]),
            }
            for pair in data["pairs"]
        ],
    }


def _shown_text(text: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": visible(text["text"]), "left_out": text["left_out"]}


def _embedded(data: Mapping[str, Any]) -> str:
    """Return JSON that can't end or open an element. `json.dumps` has escaped everything beyond ASCII, such as U+2028."""
    return json.dumps(data).translate(_ESCAPES)


def _render(*, title: str, data: str | None, policy: str) -> str:
    page = _page_templates().get_template("review.html.j2")
    return page.render(
        title=title,
        data=data,
        policy=policy,
        style=_template_part("review.css"),
        script=_template_part("review.js"),
        longest_reviewer=LONGEST_REVIEWER,
        longest_note=LONGEST_NOTE,
    )


def _policy(connect: str) -> str:
    script, style = (_hash_of(_template_part(name)) for name in ("review.js", "review.css"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash_of(text: str) -> str:
    """Return the source expression of a policy that allows an inline script or style with this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _template_part(name: str) -> str:
    """Read a style or script. Its line ends become `\\n`, as in the browser, which computes the hash from what it parsed."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@functools.cache
def _page_templates() -> Environment:
    return template_environment("spin_trl.report.review", autoescape=True)
