"""The plots show the measured figures of every arm, and can be embedded in a page."""

import re
from html.parser import HTMLParser

import pytest

from made_up import HISTOGRAM, record, stage
from spin_trl.report.charts import MOST_HISTOGRAMS, all_charts, leads, series
from spin_trl.report.drawing import SERIES, Point

RUN = record(
    stage("start", range(20)),
    stage("iteration-0", range(60)),
    stage("iteration-1", range(40)),
    stage("baseline/sft/iteration-0", range(50)),
    stage("baseline/sft/iteration-1", range(80)),
    best="iteration-0",
)


class Elements(HTMLParser):
    """Parser that collects all elements in order with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def charts(run):
    return {chart.heading: chart for group in all_charts(run) for chart in group.charts}


DRAWN = charts(RUN)


def test_every_plot_that_was_promised_is_there():
    assert [group.heading for group in all_charts(RUN)] == [
        "The metric", "Real and generated responses", "Log-ratios of held-out responses", "The answers",
    ]  # fmt: skip
    assert list(DRAWN) == [
        "Score by iteration", "Self-play minus plain SFT", "NLL per token by iteration",
        "Log-probabilities of real and generated responses",
        "Log-ratios to the opponent", "Margins", "Win rate against the opponent", "Iteration 0", "Iteration 1",
        "Length of answers", "Empty answers", "Truncated answers", "Answers identical to the real response", "Repetition",
        "Variety", "Odd characters",
    ]  # fmt: skip
    assert all_charts(RUN)[-1].note == "Checked for and not found in any model: copies."


def test_the_baseline_stands_in_every_plot_that_it_has_figures_for():
    without_opponent = {
        "Log-ratios to the opponent",
        "Margins",
        "Win rate against the opponent",
        "Iteration 0",
        "Iteration 1",
    }
    for heading, chart in DRAWN.items():
        assert ("plain SFT" in " ".join(Elements(chart.svg).texts)) == (heading not in without_opponent), heading


def test_points_are_the_figures_with_their_intervals_and_baselines_begin_at_the_start():
    found = series(RUN, "score", scale=100)
    assert list(found) == ["self-play", "plain SFT"]
    values = {name: [(point.iteration, round(point.value)) for point in points] for name, points in found.items()}
    assert values == {"self-play": [(-1, 20), (0, 60), (1, 40)], "plain SFT": [(-1, 20), (0, 50), (1, 80)]}
    assert [(round(point.low), round(point.high)) for point in found["self-play"]] == [(15, 25), (55, 65), (35, 45)]


def test_the_log_probability_of_real_responses_gets_its_interval_from_the_prompts():
    """Two prompts at 2 nats and two at 4 have mean 3 and standard error sqrt(4/3)/2 = 0.577; Student's t with 3
    degrees is 3.182.
    """
    values = {"nll": {"a": 2.0, "b": 2.0, "c": 4.0, "d": 4.0}, "real_tokens": dict.fromkeys("abcd", 1.0)}
    run = record(stage("start", figures={"logps/real": -3.0, "score": 0.1}, values=values))
    (point,) = series(run, "logps/real")["self-play"]
    assert (point.low, point.high) == pytest.approx((-3 - 1.837, -3 + 1.837), abs=1e-3)


def test_a_line_goes_from_each_iteration_to_the_model_that_it_started_from():
    fell_back = {"phase": "gate", "stage": "iteration-1", "decision": "fell back", "opponent": "iteration-0"}
    run = record(
        stage("start", range(20)), stage("iteration-0", range(60)), stage("iteration-1", range(40)),
        stage("iteration-2", range(70)), journal=[fell_back],
    )  # fmt: skip
    assert [point.came_from for point in series(run, "score")["self-play"]] == [None, -1, 0, 0]


def test_the_lead_over_a_baseline_is_paired_with_its_interval():
    """At iteration 0, ten prompts are won and none lost: 10/102 ± 1.96 sqrt(11 - 100/102)/102."""
    (points,) = leads(RUN).values()
    assert [point.iteration for point in points] == [0, 1]
    assert [point.value for point in points] == pytest.approx([10.0, -40.0])
    assert (points[0].low, points[0].high) == pytest.approx((3.72, 15.89), abs=0.01)
    assert leads(record(stage("start", range(20)), stage("iteration-0", range(60)))) == {}


def test_a_run_of_which_little_was_measured_has_the_plots_that_it_can_have():
    assert all_charts(record()) == []
    assert all_charts(record(stage("start"), stage("iteration-0"))) == []
    only_start = charts(record(stage("start", range(20))))
    assert "Score by iteration" in only_start
    assert "Margins" not in only_start
    nan = record(stage("start", figures={"score": float("nan"), "nll": 1.0}))
    assert list(charts(nan)) == ["NLL per token by iteration"]


def test_a_long_run_has_histograms_of_some_iterations_the_first_and_the_newest_among_them():
    stages = [stage(f"iteration-{t}", figures={"score": 0.5}, histogram=HISTOGRAM) for t in range(30)]
    found = [heading for heading in charts(record(*stages)) if heading.startswith("Iteration ")]
    assert len(found) == MOST_HISTOGRAMS
    assert (found[0], found[-1]) == ("Iteration 0", "Iteration 29")


def test_a_plot_is_an_svg_that_a_page_can_take_in():
    ids = []
    for chart in DRAWN.values():
        elements = Elements(chart.svg).found
        assert chart.svg.startswith("<svg ")
        assert elements[0][1]["role"] == "img"
        assert chart.heading in elements[0][1]["aria-label"]
        assert "viewbox" in elements[0][1]
        assert {tag for tag, _ in elements} <= {"svg", "g", "path", "defs", "use", "text", "clippath", "rect", "style"}
        ids += [attributes["id"] for _, attributes in elements if "id" in attributes]
        used = {attributes["href"] for tag, attributes in elements if tag == "use"}
        assert used <= {f"#{name}" for name in ids}
        assert not re.search(r"https?:|<\?xml|<!DOCTYPE|xmlns|<metadata", chart.svg)
        assert not any(word in chart.svg for word in ("font-family", "DejaVu"))
    assert len(set(ids)) == len(ids), "two plots have an id in common"


def test_colours_are_the_pages_own():
    chart = DRAWN["Score by iteration"].svg
    assert "var(--series-1)" in chart
    assert "var(--series-2)" in chart
    assert "currentColor" in chart
    assert not re.search(r"#[0-9a-fA-F]{6}\b", chart), "a colour of matplotlib's own is left"
    histogram = DRAWN["Iteration 0"].svg
    assert "var(--real)" in histogram
    assert "var(--generated)" in histogram


def test_the_same_run_gives_the_same_plots():
    assert [chart.svg for chart in charts(RUN).values()] == [chart.svg for chart in DRAWN.values()]


def test_names_that_a_user_chose_are_text_in_plots():
    hostile = "score/<script>alert(1)</script>$x^2$\x00\ud83d"
    figures = {hostile: 0.5, "score": 0.5}
    (chart,) = [
        chart for heading, chart in charts(record(stage("start", figures=figures))).items() if "script" in heading
    ]
    chart.svg.encode()
    elements = Elements(chart.svg)
    assert "script" not in {tag for tag, _ in elements.found}
    assert any("<script>alert(1)</script>$x^2$␀⟨U+D83D⟩" in text for text in elements.texts)


def test_more_arms_than_colours_are_still_drawn():
    arms = [stage(f"baseline/sft-smoothing-0.{n}/iteration-0", range(10 * n)) for n in range(1, 10)]
    run = record(stage("start", range(20)), stage("iteration-0", range(60)), *arms)
    assert len(arms) > len(SERIES)
    assert len(series(run, "score")) == 10
    assert charts(run)["Score by iteration"].svg.count("smoothed SFT") == 9


def test_a_point_without_an_interval_is_a_point():
    run = record(stage("start", figures={"score": 0.5}))
    assert series(run, "score")["self-play"] == [Point(-1, 0.5)]


@pytest.mark.parametrize(
    ("last", "ticks"),
    [(0, "start 0"), (3, "start 0 1 2 3"), (7, "start 0 1 2 3 4 5 6 7"), (20, "start 2 5 8 11 14 17 20")],
)
def test_the_start_is_named_below_the_axis_however_long_the_run(last, ticks):
    names = ["start", *(f"iteration-{t}" for t in range(last + 1))]
    (chart,) = charts(record(*(stage(name, figures={"score": 0.5}) for name in names))).values()
    texts = [text.strip() for text in Elements(chart.svg).texts if text.strip()]
    assert " ".join(texts).startswith(f"{ticks} iteration")
