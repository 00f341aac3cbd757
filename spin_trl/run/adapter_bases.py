"""Which bases the adapters of a run name in their configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..files import read_json, write_json
from .directory import RunDirectory


def adapter_configs(directory: RunDirectory) -> Iterator[Path]:
    """The configurations of all adapters that a run has trained."""
    for stage in directory.stages()[1:]:
        if (path := directory.model(stage) / "adapter_config.json").is_file():
            yield path


def named_base(adapter_config: Path) -> str:
    """What an adapter's configuration names as its base."""
    return str(read_json(adapter_config).get("base_model_name_or_path"))


def set_base(adapter_config: Path, base: str) -> None:
    """Let an adapter's configuration name another base."""
    write_json(adapter_config, {**read_json(adapter_config), "base_model_name_or_path": base})
