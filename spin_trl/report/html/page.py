"""The report as one HTML file: no script, nothing from outside, and every text that the run brought along is text.

What is not markup of ours is escaped by the template engine, everywhere; the page's own policy forbids scripts and requests
as well, should that ever fail. Characters that can't be seen are named on the whole page, whatever part they came by.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...errors import visible


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML, of what [`report.write.gather`] has found."""
    return visible(_jinja().get_template("report.html.j2").render(page=page))


@functools.cache
def _jinja() -> Environment:
    return template_environment("spin_trl.report.html", autoescape=True)


def template_environment(package: str, **options: Any) -> Environment:
    """An environment for the templates of a package, in which a name that is not there is an error."""
    loader = PackageLoader(package)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
