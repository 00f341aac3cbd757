"""In a browser, on a phone and on a screen, light and dark, the report runs no scripts and makes no requests.

Needs the `playwright` package and a Chromium, its own or the system's; skipped if either is missing.
"""

import pytest

from made_up import record, sample, stage, write_run
from spin_trl.report.write import write_report
from spin_trl.run.directory import RunDirectory

pytestmark = pytest.mark.slow

SCRIPT = "<script>document.title = 'hacked'; console.log('hacked')</script>"
HOSTILE = (
    SCRIPT, "<img src=http://evil.example/x.png onerror=\"document.title='hacked'\">", "</style></div></main>" * 20,
    "x" * 100_000,
    "\u202eesrever\u2066", "שלום עולם " * 50, "👩‍👩‍👧" * 300, "a\x00b\ud83d", "one\n" * 40,
    "http://evil.example/" + "path/" * 400,
)  # fmt: skip
STAGES = (
    stage("start", range(20)),
    *(stage(f"iteration-{t}", range(40 + t)) for t in range(12)),
    *(stage(f"baseline/sft-smoothing-0.1/iteration-{t}", range(50 + t)) for t in range(12)),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write the report of a run of twelve iterations with hostile name, settings and answers."""
    rows = [
        sample(number, prompt=text, real=text, generated=f"{text} {SCRIPT}") for number, text in enumerate(HOSTILE)
    ]
    gate = {
        "phase": "gate",
        "stage": "iteration-11",
        "decision": "stopped",
        "reason": HOSTILE[3],
        "time": 1.0,
        "seconds": 1e6,
    }
    run = record(*STAGES, best="iteration-11", journal=[gate])
    path = tmp_path_factory.mktemp("run") / SCRIPT.replace("/", "")
    return write_report(
        RunDirectory(write_run(path, run, {one.name: rows for one in STAGES}, dataset_name=HOSTILE[3]))
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 800), (1280, 900)])
def test_it_runs_nothing_asks_for_nothing_and_fits(browser, report, size, scheme):
    said, asked = [], []
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    for details in page.locator("details summary").all()[:3]:
        details.click()
    assert said == []
    assert asked == [report.as_uri()]
    assert "hacked" not in page.title().split(":")[-1]
    assert page.title() != "hacked"
    assert page.evaluate("document.querySelectorAll('script, img, iframe').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_text(SCRIPT).first.is_visible()
    wide = "[...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    assert page.evaluate(wide)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.close()


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.2) of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_can_be_told_from_the_ground(browser, report, scheme):
    """WCAG requires contrast ratios of 4.5 for text and 3 for lines."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(report.as_uri())
    read = """names => { const e = document.createElement('i'); document.body.append(e);
        return names.map(n => { e.style.color = `var(--${n})`; return getComputedStyle(e).color }) }"""
    text, lines = ["ink", "soft", "accent", "real", "generated"], [f"series-{number}" for number in range(1, 6)]
    for ground in ("ground", "panel"):
        behind, *found = (luminance(colour) for colour in page.evaluate(read, [ground, *text, *lines]))
        for name, colour in zip([*text, *lines], found, strict=True):
            contrast = (max(colour, behind) + 0.05) / (min(colour, behind) + 0.05)
            assert contrast >= (4.5 if name in text else 3), (name, ground, contrast)
    page.close()


def test_on_paper_it_is_light_and_no_plot_is_cut(browser, report):
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    page.close()
