"""The report as one HTML file, without scripts or external resources. All text from the run is shown as text.

The template engine escapes everything except our own markup. Should that ever fail, the page's content security policy still
forbids scripts and requests. Invisible characters are written out by name everywhere on the page.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...errors import visible


def render(page: Mapping[str, Any]) -> str:
    """Render the page as HTML from the result of [`report.write.gather`]."""
    return visible(_jinja().get_template("report.html.j2").render(page=page))


@functools.cache
def _jinja() -> Environment:
    return template_environment("spin_trl.report.html", autoescape=True)


def template_environment(package: str, **options: Any) -> Environment:
    """Return an environment for the templates of a package, in which an undefined name raises an error."""
    loader = PackageLoader(package)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
