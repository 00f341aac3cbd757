"""Which bases the adapters of a run name in their configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..files import write_text
from .directory import RunDirectory


def adapter_configs(directory: RunDirectory) -> Iterator[Path]:
    """The configurations of all adapters that a run has trained."""
    for stage in directory.stages()[1:]:
        path = directory.model(stage) / "adapter_config.json"
        if path.is_file():
            yield path


def named_base(adapter_config: Path) -> str:
    """What an adapter's configuration names as its base."""
    return str(json.loads(adapter_config.read_text(encoding="utf-8")).get("base_model_name_or_path"))


def set_base(adapter_config: Path, base: str) -> None:
    """Let an adapter's configuration name another base."""
    config = json.loads(adapter_config.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    write_text(adapter_config, json.dumps(config, indent=2, sort_keys=True))
