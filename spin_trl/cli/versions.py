"""`spin-trl --version`: show the versions of this package and its main dependencies without importing the latter."""

from __future__ import annotations

import argparse
import importlib
import platform
from collections.abc import Sequence
from typing import Any

from ..config.reference.listed import version_of

_OUR_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = ("trl", "transformers", "torch")


def versions() -> str:
    """Return a line with the version of each library, and of Python."""
    found = {_OUR_PACKAGE: importlib.import_module(_OUR_PACKAGE).__version__}
    found |= {library: version_of(library) or "not installed" for library in _LIBRARIES}
    found["python"] = platform.python_version()
    return "\n".join(f"{name} {version}" for name, version in found.items())


class ShowVersions(argparse.Action):
    """Print the versions and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(versions())
        parser.exit()
