"""Whether the settings that are shipped are those of the TRL and transformers that are installed."""

import json

import pytest

from spin_trl.config.reference.listed import installed_versions, shipped_file

_SHIPPED = json.loads(shipped_file().read_text(encoding="utf-8"))["versions"]

of_shipped_versions = pytest.mark.skipif(
    installed_versions() != _SHIPPED,
    reason=f"the reference is about {_SHIPPED}, and {installed_versions()} is installed",
)
"""A test of what TRL and transformers have their say in. CI runs it with the versions of constraints.txt."""
