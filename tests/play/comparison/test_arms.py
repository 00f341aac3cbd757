"""The arms of a comparison have the right names, processes each with its own GPU, and one shared start."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.play.comparison import arms
from spin_trl.play.comparison.arms import Arm, Launches, share_start
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import DATA, PAIRS, Journal, Step
from spin_trl.run.settings import frozen_batch_size
from spin_trl.run.stage import smoothing_of_arm


class Started:
    """Stand-in for `subprocess.Popen` that records the environment of a process."""

    def __init__(self) -> None:
        self.gpus: list[str | None] = []

    def __call__(self, command: list[str], **options: Any) -> Started:
        self.gpus.append(options["env"].get("CUDA_VISIBLE_DEVICES"))
        assert options["stderr"] == subprocess.STDOUT
        return self

    def wait(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [
        (None, [0, 1, 3], ["0", "1", "3"]),
        ("4,6", [0, 1, 2], ["4", "6", "4"]),  # GPUs that a scheduler has assigned to this process
        ("4,6", [None], ["4,6"]),
        (None, [None], [None]),
    ],
)
def test_an_arm_gets_a_gpu_of_its_own(
    visible: str | None,
    devices: list[int | None],
    expected: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Started()
    monkeypatch.setattr(arms.subprocess, "Popen", started)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launches = Launches()
    assert [launches.run(["run", "x"], tmp_path / "output.txt", device) for device in devices] == [0] * len(devices)
    assert started.gpus == expected


def test_nothing_is_started_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started()
    monkeypatch.setattr(arms.subprocess, "Popen", started)
    launches = Launches()
    launches.stop()
    assert launches.run(["run", "x"], tmp_path / "output.txt", 0) == 1
    assert started.gpus == []


@pytest.mark.parametrize(
    ("name", "losses", "smoothing"),
    [
        ("space", {"space": 1.0}, None),
        ("space+sft", {"space": 1.0, "sft": 1.0}, None),
        ("0.5*sigmoid+0.1*sft", {"sigmoid": 0.5, "sft": 0.1}, None),
        ("sft", {}, 0.0),
        ("sft-smoothing-0.1", {}, 0.1),
        ("sft-dft", {}, 0.0),
        ("sft-best", {}, 0.0),
    ],
)
def test_an_arm_is_named_by_its_losses(name: str, losses: dict[str, float], smoothing: float | None) -> None:
    found = Arm.parse(name)
    assert (found.name, dict(found.losses)) == (name, losses)
    assert (None if found.losses else smoothing_of_arm(found.name)) == smoothing


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid > dpo", ("sigmoid > dpo", "sigmoid", True, False)),
        ("0.5*sigmoid+0.1*sft>dpo", ("0.5*sigmoid+0.1*sft > dpo", "0.5*sigmoid+0.1*sft", True, False)),
        ("sft > spin > dpo", ("sft > sigmoid > dpo", "sigmoid", True, True)),
        ("start>space >dpo", ("start > space > dpo", "space", True, False)),
        ("start > dpo", ("start > dpo", "", True, False)),
        ("sft>dpo", ("sft > dpo", "", True, True)),
        ("sft > space", ("space", "space", False, True)),
        ("spin", ("sigmoid", "sigmoid", False, False)),
    ],
)
def test_a_chain_names_the_steps_of_an_arm(name: str, expected: tuple[str, str, bool, bool]) -> None:
    found = Arm.parse(name)
    assert (found.name, found.self_play, found.has_dpo, found.has_sft) == expected
    if found.losses:
        assert found.before_dpo() == Arm.parse(expected[1])


def test_the_same_arm_may_be_spelt_in_two_ways() -> None:
    for one, other in (("sft > dpo", "start > dpo"), ("sft > spin > dpo", "sigmoid>dpo"), ("start > space", "space")):
        assert Arm.parse(one).key == Arm.parse(other).key
    assert len({Arm.parse(name).key for name in ("space", "space > dpo", "start > dpo", "sft")}) == 4


@pytest.mark.parametrize(
    "name",
    ["dpo", "dpo > sigmoid", "sigmoid > dpo > dpo", "sigmoid > space > dpo", "sft > dpo > space", "> dpo", "sft >", ">",
     "sft-dft > dpo", "sft > sft", "start > sft-best > dpo", "space > sft", "space >  > dpo"],
)  # fmt: skip
def test_a_chain_without_a_meaning_is_refused(name: str) -> None:
    with refused(RecipeError, repr(name), "`dpo`", "`start > dpo`"):
        Arm.parse(name)


def test_a_number_that_is_none_is_refused_with_the_arm() -> None:
    for name, number in (("x*space", "'x'"), ("sft-smoothing-much", "'much'")):
        with refused(RecipeError, repr(name), number):
            Arm.parse(name)


def test_a_supervised_arm_is_a_baseline_of_the_run_that_plays_it() -> None:
    assert Arm.parse("space+0.1*sft").stage(2) == "iteration-2"
    assert Arm.parse("sft").stage(2) == "baseline/sft/iteration-2"
    assert Arm.parse("sft-smoothing-0.10").stage(0) == "baseline/sft-smoothing-0.1/iteration-0"


@pytest.fixture
def source(tmp_path: Path) -> RunDirectory:
    """Return a run that has finished its first iteration and begun the next, with a supervised arm."""
    directory = RunDirectory(tmp_path / "source")
    directory.ownership.claim()
    files = (
        *("data/train/a.arrow", "start/held-out/values.json", "start/metrics.json"),
        *(
            "iteration-0/generations/shard-0.parquet",
            "iteration-0/model/model.safetensors",
            "iteration-0/metrics.json",
        ),
        "iteration-1/generations/shard-0.parquet",
    )
    for name in files:
        path = directory.own(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    journal = Journal(directory.own("journal.jsonl"))
    for step, stage in (
        (Step.PREPARE, DATA), (Step.EVALUATE, "start"), (Step.GENERATE, "iteration-0"), (Step.TRAIN, "iteration-0"),
        (Step.EVALUATE, "iteration-0"), (Step.GATE, "iteration-0"), (Step.GENERATE, "iteration-1"),
    ):  # fmt: skip
        figures = {"dataset": "d0"} if step is Step.PREPARE else {}
        journal.append(step, stage, seconds=1.0, **figures)
    return directory


def test_preference_pairs_are_shared_with_a_run_that_trains_on_them(source: RunDirectory, tmp_path: Path) -> None:
    path = source.own("data") / "dpo/pairs.arrow"
    path.parent.mkdir()
    path.write_text("pairs", encoding="utf-8")
    Journal(source.journal).append(Step.PREPARE, PAIRS, dataset="d1")
    for pairs in (True, False):
        target = begun(tmp_path / f"target {pairs}")
        share_start(source, target, pairs=pairs)
        assert (target.path / "data/dpo/pairs.arrow").exists() is pairs
        assert (Journal(target.journal).find(Step.PREPARE, PAIRS) is not None) is pairs
        assert (target.path / "data/train/a.arrow").exists()


def begun(path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.ownership.claim()
    return directory


def test_a_run_begins_after_what_all_arms_share(source: RunDirectory, tmp_path: Path) -> None:
    """Data, the start, its figures and its answers are the same files; anything that depends on an objective is not
    shared.
    """
    target = begun(tmp_path / "target")
    share_start(source, target)
    shared = {
        "data/train/a.arrow",
        "start/held-out/values.json",
        "start/metrics.json",
        "iteration-0/generations/shard-0.parquet",
    }
    files = {str(path.relative_to(target.path)) for path in target.path.rglob("*.*") if not path.name.startswith(".")}
    assert files - {"journal.jsonl"} == shared
    assert all((target.path / name).samefile(source.path / name) for name in shared)
    steps = [(entry["phase"], entry["stage"]) for entry in Journal(target.journal).entries()]
    assert steps == [("prepare", "data"), ("evaluate", "start"), ("generate", "iteration-0")]
    assert Journal(target.journal).entries()[0] == Journal(source.journal).entries()[0]


def test_a_run_that_has_begun_stays_as_it_is(source: RunDirectory, tmp_path: Path) -> None:
    target = begun(tmp_path / "target")
    target.own("journal.jsonl").touch()
    share_start(source, target)
    assert not (target.path / "data").exists()
    assert target.journal.read_bytes() == b""


def test_what_an_interrupt_has_left_half_shared_is_shared_again(source: RunDirectory, tmp_path: Path) -> None:
    """The journal is written last, so without it a run has not begun."""
    target = begun(tmp_path / "target")
    (target.own("data") / "train").mkdir(parents=True)
    (target.path / "data/train/a.arrow").write_text("half", encoding="utf-8")
    share_start(source, target)
    assert (target.path / "data/train/a.arrow").read_text(encoding="utf-8") == "data/train/a.arrow"


def test_where_there_are_no_links_files_are_copied(
    source: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr("os.link", refuse)
    target = begun(tmp_path / "target")
    share_start(source, target)
    copy = target.path / "start/metrics.json"
    assert copy.read_text(encoding="utf-8") == "start/metrics.json"
    assert not copy.samefile(source.path / "start/metrics.json")


@pytest.mark.parametrize(("own", "expected"), [("auto", 32), (16, 16)])
def test_all_arms_sample_as_many_responses_together(
    own: int | str, expected: int, source: RunDirectory, tmp_path: Path
) -> None:
    """The number that the first arm has computed from its GPU's memory is theirs, too."""
    target = begun(tmp_path / "target")
    for directory, size in ((source, 32), (target, own)):
        directory.own("recipe.yaml").write_text(f"generation_batch_size: {size}\n", encoding="utf-8")
    share_start(source, target)
    assert frozen_batch_size(target) == expected
