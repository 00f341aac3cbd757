"""Adapters of a run are found, and their base can be read and replaced."""

import json
from pathlib import Path

from spin_trl.run.adapter_bases import adapter_configs, named_base, set_base
from spin_trl.run.directory import RunDirectory


def written(path: Path, base: str) -> Path:
    """Write an adapter's configuration with this base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"r": 4, "base_model_name_or_path": base}), encoding="utf-8")
    return path


def test_a_base_is_named_anew_and_all_else_stays(tmp_path: Path) -> None:
    path = written(tmp_path / "adapter_config.json", "before")
    set_base(path, "now")
    assert named_base(path) == "now"
    assert json.loads(path.read_text(encoding="utf-8")) == {"r": 4, "base_model_name_or_path": "now"}


def test_adapters_of_iterations_and_arms_are_found(tmp_path: Path) -> None:
    """Models without an adapter are skipped."""
    directory = RunDirectory(tmp_path / "run")
    directory.ownership.claim()
    first, arm = (
        written(directory.own(stage) / "model" / "adapter_config.json", "before")
        for stage in ("iteration-0", "baseline/sft/iteration-0")
    )
    (directory.own("iteration-1") / "model").mkdir(parents=True)
    assert sorted(adapter_configs(directory)) == sorted([first, arm])
