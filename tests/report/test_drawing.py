"""Charts are drawn from measured figures, with each point in its place and in colours that a page can change."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from messages import refused
from spin_trl.report.drawing import Chart, Point, draw_lines, lines_chart, write_picture

LINES = {
    "space": [
        Point(-1, 1.0),
        Point(0, 2.0, 1.5, 2.5, came_from=-1),
        Point(1, 3.0, came_from=0),
        Point(2, 2.5, came_from=0),
    ],
    "sft": [Point(0, 1.0, 0.5, 1.5), Point(1, 1.5, came_from=0)],
}
"""The third iteration went back to the first."""


def axes_with(lines: dict[str, list[Point]], **options: object):  # type: ignore[no-untyped-def]
    axes = Figure().subplots()
    draw_lines(lines, axes, **options)  # type: ignore[arg-type]
    return axes


def segments(axes, number: int) -> list[list[tuple[int, float]]]:  # type: ignore[no-untyped-def]
    """Return the ends of a collection's lines, rounded to whole iterations, as lines of several arms are offset."""
    collections = [one for one in axes.collections if isinstance(one, LineCollection)]
    return [[(round(x), y) for x, y in segment] for segment in collections[number].get_segments()]


def test_a_point_is_joined_to_the_one_that_it_came_from() -> None:
    axes = axes_with(LINES)
    assert segments(axes, 0) == [[(-1, 1.0), (0, 2.0)], [(0, 2.0), (1, 3.0)], [(0, 2.0), (2, 2.5)]]
    assert segments(axes, 1) == [[(0, 1.5), (0, 2.5)]]  # the intervals
    assert segments(axes, 2) == [[(0, 1.0), (1, 1.5)]]
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[1.0, 2.0, 3.0, 2.5], [1.0, 1.5]]


def test_intervals_of_several_lines_can_be_told_apart() -> None:
    """No point can be mistaken for the next iteration's."""
    many = {f"arm {number}": [Point(0, 1.0), Point(20, 1.0)] for number in range(12)}
    places = [line.get_xdata()[0] for line in axes_with(many).get_lines()]
    assert len(set(places)) == 12
    assert max(places) - min(places) < 0.6


def test_the_best_is_marked_and_zero_is_drawn() -> None:
    axes = axes_with(LINES, best=1, zero=0.0)
    marked = [line for line in axes.get_lines() if line.get_markersize() == 11]
    assert [(round(x), y) for line in marked for x, y in zip(*line.get_data(), strict=True)] == [(1, 3.0)]
    assert any(set(line.get_ydata()) == {0.0} for line in axes.get_lines())


def test_an_axis_of_iterations_begins_with_the_start_and_has_few_ticks() -> None:
    labels = [tick.get_text() for tick in axes_with(LINES).get_xticklabels()]
    assert labels == ["start", "0", "1", "2"]
    long = {"space": [Point(number, 1.0) for number in range(-1, 99)]}
    labels = [tick.get_text() for tick in axes_with(long).get_xticklabels()]
    assert labels[0] == "start"
    assert len(labels) <= 9


def test_panels_without_points_are_left_out() -> None:
    chart = lines_chart("a", "A", "", {"empty": {}, "also": {"space": []}, "full": LINES})
    assert list(chart.panels) == ["full"]
    assert lines_chart("a", "A", "", {"empty": {}}).panels == {}


def chart(heading: str = "Heading", name: str = "Space") -> Chart:
    return lines_chart("name", heading, "What to see.", {"y": {name: LINES["space"], "sft": LINES["sft"]}}, zero=0.0)


def test_a_plot_of_the_page_has_the_pages_colours_and_no_other() -> None:
    """This holds for any background."""
    svg = chart().svg
    assert "var(--series-1)" in svg
    assert "currentColor" in svg
    assert set(re.findall(r"#[0-9a-fA-F]{6}", svg)) == set()
    assert "font-family" not in svg


def test_a_plot_is_an_element_with_a_title_and_text_that_is_text() -> None:
    svg = chart("<b>&\u202e", "<script>").svg
    root = ElementTree.fromstring(svg.replace("href=", "xhref="))
    assert (root.tag, root.attrib["role"]) == ("svg", "img")
    assert root.attrib["aria-label"] == "<b>&⟨U+202E⟩. What to see."
    assert "<script>" not in svg
    assert "<script>" in {element.text for element in root.iter("text")}


def test_ids_are_used_and_belong_to_one_chart() -> None:
    """On a page with many plots, a duplicate id would draw the wrong element."""
    one, other = chart().svg, Chart("other", "Heading", "", chart().panels).svg
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (one, other)]
    assert all(f"#{name}" in one for name in ids[0])
    assert not ids[0] & ids[1]


def test_the_same_chart_is_drawn_alike() -> None:
    assert chart().svg == chart().svg


def test_a_picture_has_every_chart_that_was_measured(tmp_path: Path) -> None:
    """Charts are side by side, 5 x 4 inches each, at 110 dots per inch."""
    empty = lines_chart("b", "B", "", {})
    for charts, width in (([chart()], 550), ([chart(), empty, chart()], 1100), ([], 550)):
        write_picture(tmp_path / "a.png", charts)
        content = (tmp_path / "a.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (width, 440)


def test_a_picture_that_can_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png", [chart()])
    before = (tmp_path / "a.png").read_bytes()

    def fail(self: Figure, *args: object, **kwargs: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with refused(OSError, "full"):
        write_picture(tmp_path / "a.png", [chart()])
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
