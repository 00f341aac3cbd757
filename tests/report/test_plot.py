"""The plot of a run shows its figures, even if they are incomplete."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from made_up import key, record, stage
from messages import refused
from spin_trl.report.charts import leads, plot_run
from spin_trl.report.comparison import AGAINST, plot_comparison


def colours(path: Path) -> set[tuple[int, ...]]:
    image = Image.open(path).convert("RGB")
    return {colour for _, colour in image.getcolors(maxcolors=1 << 24)}


START = stage("start", range(20))


def test_every_arm_is_drawn_in_a_colour_of_its_own(tmp_path):
    later, sft = stage("iteration-0", range(60)), stage("baseline/sft/iteration-0", range(40), values={})
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    plot_run(one, record(START, later))
    plot_run(two, record(START, later, sft))
    assert Image.open(one).size == Image.open(two).size
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert blue in colours(one)
    assert orange not in colours(one)
    assert {blue, orange} <= colours(two)


def test_arms_that_are_compared_with_self_play_have_a_plot_of_their_own(tmp_path):
    """The plot includes the interval: a wider one takes more ink."""
    start, later = (
        stage("start", range(20), figures={"score": 0.2, "logps/real": -6.0}),
        stage("iteration-0", range(60)),
    )
    figures = {"score": 0.4, "score_low": 0.35, "score_high": 0.45, "logps/real": -6.0}
    # All of the 20 prompts in which they differ are won by self-play, or 40 are won and 20 are lost.
    arms = {
        name: stage("baseline/sft/iteration-0", right, figures=figures)
        for name, right in (("narrow", range(40)), ("wide", range(40, 80)))
    }
    paths = {name: tmp_path / f"{name}.png" for name in ("none", *arms)}
    plot_run(paths["none"], record(start, later, dataclasses.replace(arms["wide"], values={})))
    for name, arm in arms.items():
        plot_run(paths[name], record(start, later, arm))
    images = {name: Image.open(path).convert("RGB") for name, path in paths.items()}
    assert images["none"].width * 3 == images["narrow"].width * 2
    ink = {name: {c: n for n, c in image.getcolors(1 << 24)}[255, 127, 14] for name, image in images.items()}
    assert ink["wide"] > ink["narrow"] > ink["none"]


@pytest.mark.parametrize("arms", [{}, {"self-play": [(0.0, {})]}])
def test_a_run_without_figures_gives_an_empty_plot_and_no_error(tmp_path, arms):
    plot_run(tmp_path / "plot.png", record(*(stage("start") for _ in arms)))
    assert Image.open(tmp_path / "plot.png").width > 100


def test_a_plot_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with refused(OSError, "full"):
        plot_run(path, record(START))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize("name", [r"score/regex:^\$\d+$|^\frac$", "a\nb$_$", "\x1b[31m${$"])
def test_a_name_that_looks_like_a_formula_is_shown_as_it_is(name, tmp_path):
    """matplotlib would typeset it, or end the run with an error about it."""
    stages = [
        stage(
            of,
            figures={name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6},
            values={name: {key(1): 0.1, key(2): value}},
        )
        for of, value in (("start", 0.2), ("iteration-0", 0.5), (f"baseline/{name.replace('/', '')}/iteration-0", 0.3))
    ]
    run = record(*stages, metric=name)
    assert len(leads(run)) == 1
    plot_run(tmp_path / "plot.png", run)
    assert Image.open(tmp_path / "plot.png").width > 100
    against = {f"{name}{AGAINST}{end}": 0.1 for end in ("", "_low", "_high")}
    summary = {"start": {-1: {name: 0.1}}, name: {0: {name: 0.5, f"{name}_se": 0.1, **against}}}
    plot_comparison(tmp_path / "comparison.png", summary, name, name)
    assert Image.open(tmp_path / "comparison.png").width > 100
