"""`docs/reference/python.md`: the public names, as mkdocstrings shows them."""

from __future__ import annotations

import inspect

import spin_trl
from reference.markdown import WRITTEN

HEAD = """\
# Python API

The public names of `spin_trl`. `import spin_trl` is fast: torch and TRL are imported when a name is first used. Errors
are raised as exceptions of `spin_trl.errors` ([Errors](errors.md)).
"""


def page() -> str:
    return WRITTEN + HEAD + "".join(map(section, classes()))


def classes() -> list[str]:
    """Return the public classes: those that play first, then their settings."""
    names = [name for name in spin_trl.__all__ if inspect.isclass(getattr(spin_trl, name))]
    return sorted(names, key=lambda name: (name.endswith("Config"), name))


def section(name: str) -> str:
    # Settings have a separate page, with all that they inherit.
    is_config = name.endswith("Config")
    options = "    options:\n      members: []\n" if is_config else ""
    more = "\nIts fields are [settings](settings.md).\n" if is_config else ""
    return f"\n::: spin_trl.{name}\n{options}{more}"
