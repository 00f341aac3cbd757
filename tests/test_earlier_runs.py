"""Runs played or begun by version 0.1.0 are continued, reported and get their cards with the current code.

`data/runs-0.1.0/make.py` describes them: three kinds (`full`, `lora`, `scratch`), each at three points (`finished`,
`generated`, `training`). The unfinished ones stopped in iteration 1, their last.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import runs
from hub.server import problems_of_card
from spin_trl.cli import main

ARCHIVES = Path(__file__).parent / "data" / "runs-0.1.0"
KINDS = ("full", "lora", "scratch")
POINTS = ("finished", "generated", "training")
EVERY = [f"{kind}-{point}" for kind in KINDS for point in POINTS]
STOPPED = [name for name in EVERY if not name.endswith("finished")]

PLAYED = [
    (phase, f"iteration-{iteration}") for iteration in (0, 1) for phase in ("generate", "train", "evaluate", "gate")
]
"""Journal entries of a whole run after the start."""

STEPS_LEFT = {"finished": 0, "generated": 6, "training": 3}
"""Optimiser steps that a run has before it. An iteration has six; the checkpoint was written after the third."""

MADE_ANEW = ("README.md", "best.json", "plot.png", "report.html", "table.txt")
"""Files that are derived from the others."""

TOLERANCE = 1e-4
"""Nats, and units of a weight, by which a continued run may differ from the one that was played in one go.

They were measured on these archives. Other kernels (AVX-512, AVX2, none) and numbers of threads: 1e-5 nats, 2e-7 of a
weight. Wrong resumes, where momentum is lost, the learning rate starts again, or a step is taken twice: 6e-3 of a
weight.
"""


def unpack(name: str, folder: Path) -> Path:
    """Unpack a run as it was left, with the files it was started from; return the run's directory."""
    with tarfile.open(ARCHIVES / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"


@dataclass(frozen=True)
class Continued:
    """A run after `spin-trl run`.

    Attributes:
        run: run directory.
        before: previous contents of the files in its directory, by path.
        exit_code: exit code of the command.
        steps: number of optimiser steps that the command took.
    """

    run: Path
    before: dict[str, bytes]
    exit_code: int
    steps: int


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Continued]:
    """Continue an earlier run to its end, in the folder where it is now; each is continued once."""

    @functools.cache
    def go_on(name: str) -> Continued:
        folder = tmp_path_factory.mktemp("earlier run")
        run = unpack(name, folder)
        before = runs.contents(run)
        steps: list[object] = []
        counter = register_optimizer_step_post_hook(lambda *found: steps.append(found[0]))
        try:
            with contextlib.chdir(folder):
                exit_code = main(["run", "recipe.yaml"])
        finally:
            counter.remove()
        return Continued(run, before, exit_code, len(steps))

    return go_on


# ---- the archives ---------------------------------------------------------------------------------------------------


def test_they_are_small_and_know_nothing_of_the_machine_that_played_them(tmp_path: Path) -> None:
    """No file names a folder by its absolute path."""
    archives = {path.name.removesuffix(".tar.gz"): path for path in ARCHIVES.glob("*.tar.gz")}
    assert set(archives) == set(EVERY)
    assert sum(path.stat().st_size for path in archives.values()) < 600_000
    absolute = re.compile(rb"/(tmp|work|root|home|Users)/")
    for name in EVERY:
        unpack(name, tmp_path / name)
        files = runs.contents(tmp_path / name)
        assert [path for path, content in files.items() if absolute.search(content)] == []


# ---- as they were left -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_it_is_reported_and_gets_its_cards_as_it_was_left(name: str, tmp_path: Path, capsys) -> None:
    """Nothing is played for that."""
    run = unpack(name, tmp_path)
    journal = (run / "journal.jsonl").read_bytes()
    iterations = 2 if name.endswith("finished") else 1
    check_report(run, iterations, capsys)
    check_cards(run, iterations, capsys)
    assert (run / "journal.jsonl").read_bytes() == journal


# ---- continued -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_it_is_played_to_its_end(name: str, continued: Callable[[str], Continued]) -> None:
    found = continued(name)
    assert found.exit_code == 0
    assert runs.steps(found.run)[-len(PLAYED) :] == PLAYED
    assert all(runs.weights(found.run / f"iteration-{iteration}" / "model") for iteration in (0, 1))
    assert not list(found.run.glob("iteration-*/train/checkpoint-*"))


@pytest.mark.parametrize("name", EVERY)
def test_what_was_done_is_not_done_again(name: str, continued: Callable[[str], Continued]) -> None:
    """The journal continues after its old lines; data, answers, models and figures are unchanged; no step is repeated."""
    found = continued(name)
    after = runs.contents(found.run)
    journal = found.before["journal.jsonl"]
    assert after["journal.jsonl"].startswith(journal)
    assert (after["journal.jsonl"] == journal) is name.endswith("finished")
    kept = [
        path
        for path in found.before
        if not path.endswith((*MADE_ANEW, "journal.jsonl", ".lock")) and not path.startswith("iteration-1/train/")
    ]
    folders = {str(Path(path).parent) for path in kept}
    assert folders > {"data/train", "iteration-0/generations", "iteration-0/model", "iteration-1/generations"}
    assert [path for path in kept if after.get(path) != found.before[path]] == []
    assert found.steps == STEPS_LEFT[name.partition("-")[2]]


@pytest.mark.numeric
@pytest.mark.parametrize("name", STOPPED)
def test_it_comes_out_as_if_it_had_never_stopped(
    name: str, continued: Callable[[str], Continued], tmp_path: Path
) -> None:
    """It equals the finished run of its kind, which was played in one go from the same start, maybe on a CPU that
    rounds differently.

    Figures that depend on newly sampled answers are left out: rounding may decide which of two tokens is sampled.
    """
    run, whole = continued(name).run, unpack(f"{name.partition('-')[0]}-finished", tmp_path)
    now, then = (runs.tensors(folder / "iteration-1" / "model") for folder in (run, whole))
    assert now.keys() == then.keys()
    for weight in then:
        torch.testing.assert_close(now[weight], then[weight], rtol=0, atol=TOLERANCE)
    now, then = (runs.entry("train", "iteration-1", folder) for folder in (run, whole))
    for figures in ("first", "last"):
        assert now[figures] == pytest.approx(then[figures], rel=0, abs=TOLERANCE)
    assert now["pairs"].pop("tokens") > 0  # 0.1.0 did not count them
    assert [now[name] for name in ("steps", "pairs", "objective")] == [
        then[name] for name in ("steps", "pairs", "objective")
    ]
    now, then = (figures_of(folder, 1) for folder in (run, whole))
    for figure in ("nll", "nll_low", "nll_high", "nll_change", "logps/real", "logratio/real"):
        assert now[figure] == pytest.approx(then[figure], rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_it_is_then_reported_and_gets_its_cards(name: str, continued: Callable[[str], Continued], capsys) -> None:
    found = continued(name)
    assert found.exit_code == 0
    capsys.readouterr()
    check_report(found.run, 2, capsys)
    check_cards(found.run, 2, capsys)


# ---- reports and cards -----------------------------------------------------------------------------------------------


def figures_of(run: Path, iteration: int) -> dict[str, float]:
    """Return held-out figures of an iteration."""
    return json.loads((run / f"iteration-{iteration}" / "metrics.json").read_text(encoding="utf-8"))


def check_report(run: Path, iterations: int, capsys) -> None:
    """Check that `spin-trl report` writes the report again, with every iteration that was measured."""
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run / "report.html")]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"<bdi>{iterations} of 2</bdi>" in page
    rows = re.findall(r'<th scope="row"><bdi>iteration\s(\d).*?</th><td><bdi>(\d+\.\d{3})<', page)
    measured = {str(number): f"{figures_of(run, number)['nll']:.3f}" for number in range(iterations)}
    assert dict(rows) == measured


def check_cards(run: Path, iterations: int, capsys) -> None:
    """Check that `spin-trl card` writes the cards of all models and of the pairs again, and that the Hub would accept
    them.
    """
    models = [run / f"iteration-{number}" / "model" / "README.md" for number in range(iterations)]
    for path in models:
        path.unlink()
    if (run / "start" / "model").exists():
        models.insert(0, run / "start" / "model" / "README.md")
    assert main(["card", str(run)]) == 0
    *written, pairs = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written == models
    for number, path in enumerate(written[-iterations:]):
        card = path.read_text(encoding="utf-8")
        assert problems_of_card(card, "model") == []
        assert f"# run, iteration {number}\n" in card
        assert f"{figures_of(run, number)['nll']:.3f}" in card
    card = pairs.read_text(encoding="utf-8")
    assert problems_of_card(card, "dataset") == []
    assert all(f"config_name: iteration-{number}\n" in card for number in range(iterations))
