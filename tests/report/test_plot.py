"""The plot of a run is a picture of the figures, also of those that are incomplete."""

from pathlib import Path

import pytest
from PIL import Image

from messages import refused
from spin_trl.report.comparison import plot_comparison
from spin_trl.report.plot import plot_run


def colours(path: Path) -> set[tuple[int, ...]]:
    image = Image.open(path).convert("RGB")
    return {colour for _, colour in image.getcolors(maxcolors=1 << 24)}


def test_every_arm_is_drawn_in_a_colour_of_its_own(tmp_path):
    start = {"score": 0.1, "score_se": 0.01, "logps/real": -5.0}
    later = {"score": 0.6, "score_se": 0.02, "logps/real": -3.0, "logps/generated": -9.0}
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    plot_run(one, {"self-play": [(0, start), (10, later)]}, "score")
    plot_run(two, {"self-play": [(0, start), (10, later)], "sft": [(0, start), (10, {"score": 0.4})]}, "score")
    assert Image.open(one).size == Image.open(two).size
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert blue in colours(one)
    assert {blue, orange} <= colours(two)


def test_arms_that_are_compared_with_self_play_have_a_plot_of_their_own(tmp_path):
    """With the interval: a wider one is drawn with more ink."""
    start, later = {"score": 0.1}, {"score": 0.6}
    sft = {"score": 0.4, "score_change": -0.2, "score_change_low": -0.21, "score_change_high": -0.19}
    paths = {name: tmp_path / f"{name}.png" for name in ("none", "narrow", "wide")}
    played = [(0, start), (10, later)]
    plot_run(paths["none"], {"self-play": played, "sft": [(0, start), (10, {"score": 0.4})]}, "score")
    plot_run(paths["narrow"], {"self-play": played, "sft": [(0, start), (10, sft)]}, "score")
    wide = {**sft, "score_change_low": -0.5, "score_change_high": 0.1}
    plot_run(paths["wide"], {"self-play": played, "sft": [(0, start), (10, wide)]}, "score")
    images = {name: Image.open(path).convert("RGB") for name, path in paths.items()}
    assert images["none"].width * 3 == images["narrow"].width * 2
    ink = {name: {c: n for n, c in image.getcolors(1 << 24)}[255, 127, 14] for name, image in images.items()}
    assert ink["wide"] > ink["narrow"] > ink["none"]


@pytest.mark.parametrize("arms", [{}, {"self-play": [(0.0, {})]}])
def test_a_run_without_figures_gives_an_empty_plot_and_no_error(tmp_path, arms):
    plot_run(tmp_path / "plot.png", arms, "nll")
    assert Image.open(tmp_path / "plot.png").width > 100


def test_a_plot_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with refused(OSError, "full"):
        plot_run(path, {}, "nll")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize("name", [r"score/regex:^\$\d+$|^\frac$", "a\nb$_$", "\x1b[31m${$"])
def test_a_name_that_looks_like_a_formula_is_shown_as_it_is(name, tmp_path):
    """matplotlib would set it, or end the run with what is wrong with it."""
    start, later = (
        {name: 0.1},
        {name: 0.5, f"{name}_change": 0.4, f"{name}_change_low": 0.1, f"{name}_change_high": 0.6},
    )
    plot_run(tmp_path / "plot.png", {"self-play": [(0, start), (10, later)], name: [(0, start), (10, later)]}, name)
    assert Image.open(tmp_path / "plot.png").width > 100
    summary = {"start": {-1: start}, name: {0: later}}
    plot_comparison(tmp_path / "comparison.png", summary, name)
    assert Image.open(tmp_path / "comparison.png").width > 100
