"""Tells whether the shipped settings are those of the installed TRL and transformers."""

import json

import pytest

from spin_trl.config.reference.listed import installed_versions, shipped_file

_SHIPPED = json.loads(shipped_file().read_text(encoding="utf-8"))["versions"]

of_shipped_versions = pytest.mark.skipif(
    installed_versions() != _SHIPPED,
    reason=f"the reference is about {_SHIPPED}, and {installed_versions()} is installed",
)
"""Mark for tests that depend on TRL's and transformers' versions. CI runs them with those of constraints.txt."""
