"""The report as one HTML file: no script, nothing from outside, and every text that the run brought along is text.

What is not markup of ours is escaped by the template engine, everywhere; the page's own policy forbids scripts and requests
as well, should that ever fail.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..charts import Group
from ..tables import Table
from ..text import visible
from .samples import Shown, summary


@dataclass(frozen=True)
class Page:
    """What stands on the page.

    Attributes:
        name: of the run.
        verdict: in a sentence.
        remarks: further sentences.
        warnings: of answers that have gone bad.
        facts: what the run was, by name.
        standings, costs: tables.
        figures: tables, by heading.
        metric_note: how the run's metric is to be read.
        groups: plots.
        shown: samples; None if there are none.
        settings: of the recipe, as text.
        versions: of packages, by name.
        digests: of data, template and models, by what they belong to.
        period: from when to when.
        devices: on what the run ran; "" if nobody knows.
        made_by: name and version of this package.
    """

    name: str
    verdict: str
    remarks: Sequence[str]
    warnings: Sequence[str]
    facts: Mapping[str, str]
    standings: Table
    figures: Mapping[str, Table]
    costs: Table
    metric_note: str
    groups: Sequence[Group]
    shown: Shown | None
    settings: str
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    period: str = ""
    devices: str = ""
    made_by: str = ""


def render(page: Page) -> str:
    """The page as HTML."""
    shown = summary(page.shown) if page.shown is not None else ""
    return _jinja().get_template("report.html.j2").render(page=page, summary=shown)


@functools.cache
def _jinja() -> Environment:
    return Environment(
        loader=PackageLoader("spin_trl.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalized(value: Any) -> Any:
    """Whatever the template writes: of texts, no character that can't be seen; escaping follows."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
