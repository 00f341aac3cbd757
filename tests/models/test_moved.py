"""An adapter's base is found at its current location after its run directory was moved or copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spin_trl.models.moved import DEPTH, base_in_run


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def mark(root: Path, entries: dict[str, str] | None = None, **more: Any) -> None:
    known = {"start": "start", "iteration-0": "iteration-0", "baseline": "baseline"}
    (root / ".spin_trl.json").write_text(json.dumps({"entries": entries or known, **more}), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run that was at `/before/run`, and has its own start."""
    root = make(tmp_path / "run")
    mark(root, places=["/first/run", "/before/run"])
    return root


@pytest.mark.parametrize("kind", ["model", "base"])
@pytest.mark.parametrize(
    "adapter", ["iteration-0/model", "baseline/sft/iteration-0/train/checkpoint-8", "iteration-0/train/checkpoint-3"]
)
def test_the_runs_own_start_is_the_base_of_all_its_adapters(adapter: str, kind: str, run: Path) -> None:
    """It is used wherever the configuration says the base is, and however deep the adapter is nested."""
    base, place = make(run / "start" / kind), make(run / adapter)
    for named in ("/before/run/start/model", "/elsewhere", "org/model"):
        assert base_in_run(place, named) == base


def test_a_start_that_is_an_adapter_is_no_base_of_itself(run: Path) -> None:
    """Its base is next to it, if the run has stored that."""
    start = make(run / "start/model")
    (start / "adapter_config.json").touch()
    assert base_in_run(make(run / "iteration-0/model"), "/elsewhere") is None
    base = make(run / "start/base")
    assert base_in_run(start, "/elsewhere") == base
    assert base_in_run(run / "iteration-0/model", "/elsewhere") == base


def test_another_base_in_the_directory_is_found_by_the_places_where_it_was(run: Path) -> None:
    adapter, merged = make(run / "iteration-0/model"), make(run / "mine/merged")
    for place in ("/first/run", "/before/run"):
        assert base_in_run(adapter, f"{place}/mine/merged") == merged
    assert base_in_run(adapter, "/before/run/gone") is None
    assert base_in_run(adapter, "/before/running/mine/merged") is None
    assert base_in_run(adapter, "org/model") is None


def test_an_entry_may_have_another_name_there(run: Path) -> None:
    mark(run, {"start": "start-2", "iteration-0": "iteration-0-2"})
    make(run / "start/model")  # the user's
    base = make(run / "start-2/model")
    assert base_in_run(make(run / "iteration-0-2/model"), "/elsewhere") == base


def test_an_adapter_of_the_users_is_left_alone(run: Path) -> None:
    make(run / "start/model")
    assert base_in_run(make(run / "my adapter"), "/before/run/start/model") is None
    assert base_in_run(make(run.parent / "outside"), "/before/run/start/model") is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"entries": []}'])
def test_a_marker_that_says_nothing_is_none(text: str, run: Path) -> None:
    make(run / "start/model")
    (run / ".spin_trl.json").write_text(text, encoding="utf-8")
    assert base_in_run(make(run / "iteration-0/model"), "/elsewhere") is None


def test_a_run_of_version_0_1_0_is_known_by_its_start(tmp_path: Path) -> None:
    """It has no marker: a missing base that was called `start/model` is the one found there."""
    base, adapter = make(tmp_path / "run/start/model"), make(tmp_path / "run/iteration-0/model")
    assert base_in_run(adapter, "/before/run/start/model") == base
    assert base_in_run(adapter, "/before/run/start/base") is None
    assert base_in_run(adapter, str(base)) is None  # it is at the named path


def test_a_link_to_a_run_is_followed(run: Path) -> None:
    base, adapter = make(run / "start/model"), make(run / "iteration-0/model")
    link = run.parent / "link"
    link.symlink_to(adapter)
    assert base_in_run(link, "/elsewhere") == base


def test_far_above_nothing_is_looked_for(run: Path) -> None:
    make(run / "start/model")
    deepest = Path("iteration-0", *["x"] * (DEPTH - 1))
    assert base_in_run(make(run / deepest), "/elsewhere") is not None
    assert base_in_run(make(run / deepest / "x"), "/elsewhere") is None
