"""In a browser, people compare answers with keys, a mouse or a phone, and their votes arrive whole.

Needs the `playwright` package and a Chromium, its own or the system's; skipped if either is missing. The environment
variable `AXE_CORE` may name a file `axe.min.js` (of the npm package `axe-core`), which checks that the page is accessible.
"""

import contextlib
import json
import os
from pathlib import Path

import pytest

from spin_trl.errors import DataError
from spin_trl.report.review.page import render_page
from spin_trl.report.review.server import ReviewServer
from spin_trl.report.review.votes import checked_name

pytestmark = pytest.mark.slow

AXE = os.environ.get("AXE_CORE")
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
KEYS = {"left": "1", "right": "2", "both_good": "3", "both_bad": "4", "skip": "s"}
CHOICES = tuple(KEYS)
SCRIPT = "<script>document.title = 'hacked'; console.log('hacked')</script>"
HOSTILE = (
    SCRIPT, "<img src=http://evil.example/x.png onerror=\"document.title='hacked'\">", "</script></section></main>" * 20,
    "x" * 1_000_000, "one two " * 125_000, "שלום עולם " * 50, "\u202eesrever\u2066", "a\x00b\ud83d", "👩‍👩‍👧" * 300,
    "one\n" * 1_000, "http://evil.example/" + "path/" * 400, "",
)  # fmt: skip


def text(content, left_out=0):
    return {"text": content, "left_out": left_out}


def pairs(number):
    """Return pairs whose prompts are their ids, so that a test sees which one is shown."""
    return [
        {
            "id": f"pair-{one:02}",
            "prompt": [{"role": "user", **text(f"pair-{one:02}")}],
            "left": text(f"left {one}"),
            "right": text(f"right {one} " * 200),
        }
        for one in range(number)
    ]


def data_of(shown):
    return {"format": 1, "run": "run-1", "name": "a run", "title": "iteration 1", "page": "digest", "pairs": shown}


class Opened:
    """A page in a browser, with what it requested, said and threw."""

    def __init__(self, context, url):
        self.asked, self.said = [], []
        self.page = context.new_page()
        self.page.set_default_timeout(5_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(url)

    def start(self, name):
        self.page.fill("#name", name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#pair:visible, #end:visible")
        return self

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def here(self):
        return self.page.inner_text("#prompt")

    def where(self):
        return self.page.inner_text("#where")

    def is_pressed(self, choice):
        return self.page.get_attribute(f"[data-choice={choice}]", "aria-pressed") == "true"

    def order(self):
        """Skip all pairs, and return their ids as they were shown."""
        found = []
        while self.page.is_visible("#pair"):
            found.append(self.here())
            self.press("s")
        return found

    def saved(self, control="#save"):
        """Save the votes; return the file's name and content."""
        with self.page.expect_download() as waiting:
            self.page.click(control)
        content = Path(waiting.value.path()).read_text(encoding="utf-8")
        return waiting.value.suggested_filename, json.loads(content)


@pytest.fixture
def opened(browser, tmp_path):
    """Return a function that opens the file of some pairs, in a browser of its own unless a context is given."""
    contexts = []

    def open_file(shown, context=None, **options):
        path = tmp_path / "review.html"
        path.write_text(render_page(data_of(shown)), encoding="utf-8")
        if context is None:
            context = browser.new_context(**options)
            contexts.append(context)
        return Opened(context, path.as_uri())

    yield open_file
    for context in contexts:
        context.close()


def test_forty_votes_with_the_keyboard_alone_are_saved_as_a_file(opened):
    on = opened(pairs(40)).start("Ann B.")
    expected = {}
    for number in range(40):
        assert on.where() == f"Pair {number + 1} of 40"
        choice, pair = CHOICES[number % 5], on.here()
        vote = {"pair": pair, "choice": choice, "reasons": [], "note": ""}
        if number % 3 == 0:
            on.press("i", "w", "r", "r")
            vote["reasons"] = ["wrong", "incomplete"]
        if number % 10 == 1:
            on.press("t")
            on.page.keyboard.type("n1 sb4 שלום")  # keys are text here
            on.press("Enter", "Escape")
            vote["note"] = "n1 sb4 שלום\n"
        on.press(KEYS[choice])
        if choice != "skip":
            assert on.is_pressed(choice)
            on.press("n")
        expected[pair] = vote
    assert on.page.is_visible("#end")
    assert "32 votes, 8 skipped" in on.page.inner_text("#count")
    name, file = on.saved()
    assert name == "votes-Ann-B.json"
    assert file == {
        "format": "spin_trl review votes",
        "version": 1,
        "run": "run-1",
        "page": "digest",
        "reviewer": "Ann B.",
        "votes": [expected[f"pair-{number:02}"] for number in range(40)],
    }
    assert "spin-trl review RUN_DIRECTORY votes-Ann-B.json" in on.page.inner_text("#saved")
    assert on.asked == [on.page.url]
    assert on.said == []


@pytest.mark.parametrize(
    ("typed", "reviewer"),
    [("علی\u200cرضا", "علیرضا"), ("Ann\u00ad\u200b", "Ann"), ("a\u2003\ue000 b", "a b"), (" Zoe\u0308 ", "Zo\u00eb")],
)
def test_a_name_that_the_page_takes_is_taken_from_its_file(opened, typed, reviewer):
    on = opened(pairs(1)).start(typed)
    _, file = on.saved()
    assert checked_name(file["reviewer"]) == reviewer


def test_with_the_mouse_votes_can_be_changed_later(opened):
    on = opened(pairs(4)).start("Ann")
    click = on.page.click
    click("#next", force=True)
    assert on.where() == "Pair 1 of 4"  # there is no vote yet
    assert on.page.inner_text("#status")
    for choice in ("left", "both_bad", "right"):
        click(f"[data-choice={choice}]")
        click("#next")
    assert on.page.inner_text("#voted") == "3 of 4 done"
    assert (
        on.page.evaluate("document.querySelector('progress').value / document.querySelector('progress').max") == 0.75
    )
    click("#back")
    click("#back")
    assert on.is_pressed("both_bad")
    second = on.here()
    click("[data-choice=both_good]")
    click("text=Invented")
    on.page.fill("#note", "no source")
    for _ in range(2):
        click("#next")
    click("[data-choice=skip]")
    click("#overview li:nth-child(1) button")
    assert on.is_pressed("left")
    first = on.here()
    click("[data-choice=right]")
    on.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    on.press("d")
    assert on.page.evaluate("document.querySelector('#saved').getBoundingClientRect().top > -1")
    _, file = on.saved()
    votes = {vote["pair"]: vote for vote in file["votes"]}
    assert votes[first] == {"pair": first, "choice": "right", "reasons": [], "note": ""}
    assert votes[second] == {"pair": second, "choice": "both_good", "reasons": ["invented"], "note": "no source"}
    assert sorted(vote["choice"] for vote in votes.values()) == ["both_good", "right", "right", "skip"]


def test_a_reload_and_a_new_tab_go_on_where_the_reviewer_stopped(opened):
    on = opened(pairs(6)).start("Ann")
    on.press("1", "n", "2", "w", "t")
    on.page.keyboard.type("why")
    there = on.here()
    on.page.reload()
    assert (on.where(), on.here(), on.is_pressed("right")) == ("Pair 2 of 6", there, True)
    assert on.page.is_checked("[data-reason=wrong]")
    assert on.page.input_value("#note") == "why"
    again = opened(pairs(6), on.page.context)  # a new tab asks who is there
    assert again.page.input_value("#name") == "Ann"
    again.start("Ann")
    assert (again.where(), again.here()) == ("Pair 2 of 6", there)
    again.press("4")
    on.page.wait_for_selector("[data-choice=both_bad][aria-pressed=true]")  # the other tab has the vote too
    again.page.click("#change")
    again.start("Bo")
    assert again.where() == "Pair 1 of 6"
    assert again.page.inner_text("#voted") == "0 of 6 done"


def test_each_reviewer_has_an_order_of_their_own_everywhere(opened):
    ann, bo, ann_elsewhere = (opened(pairs(6)).start(name).order() for name in ("Ann", "Bo", " Ann "))
    assert ann == ann_elsewhere
    assert ann != bo
    assert sorted(ann) == sorted(bo) == [pair["id"] for pair in pairs(6)]


def test_keys_can_be_switched_off(opened):
    on = opened(pairs(2)).start("Ann")
    on.page.click("text=Keys")
    on.press("1")
    assert not on.is_pressed("left")
    assert not on.page.is_visible("#next kbd")
    on.page.reload()
    on.press("1")
    assert not on.is_pressed("left")
    on.page.click("text=Keys")
    on.press("1", "ArrowRight")
    assert on.where() == "Pair 2 of 2"


def test_on_other_keyboards_the_same_keys_work(opened):
    """A French keyboard types `&` with the key of 1, and a Russian one `ц` with that of W."""
    on = opened(pairs(2)).start("Ann")
    send = """([key, code, more]) =>
        document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true, ...more}))"""
    on.page.evaluate(send, ["&", "Digit1", {}])
    on.page.evaluate(send, ["ц", "KeyW", {}])
    assert on.is_pressed("left")
    assert on.page.is_checked("[data-reason=wrong]")
    on.page.evaluate(send, ["2", "Digit2", {"ctrlKey": True}])
    on.page.evaluate(send, ["2", "Digit2", {"repeat": True}])
    assert on.is_pressed("left")


@pytest.mark.parametrize(
    "options", [PHONE, {"viewport": {"width": 360, "height": 740}}, {"viewport": {"width": 1280, "height": 800}}]
)
def test_everything_fits_and_the_choices_stay_in_view(opened, options):
    answers = ("x" * 100_000, "word " * 4_000)
    shown = [{**pair, "left": text(answers[0]), "right": text(answers[1], 12_345)} for pair in pairs(2)]
    shown[0]["prompt"] = [{"role": "system", **text(answers[0], 7)}, {"role": "user", **text(answers[1])}]
    on = opened(shown, **options)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    in_view = """() => [...document.querySelectorAll('[data-choice], #next')].every(element => {
        const {top, bottom, left, right} = element.getBoundingClientRect();
        const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
        return top >= 0 && bottom <= innerHeight && left >= 0 && right <= innerWidth && element.contains(hit) })"""
    assert on.page.evaluate(fits)
    on.start("N" * 80)
    left, right = (on.page.locator(f"#answer-{side}").bounding_box() for side in ("left", "right"))
    assert (left["y"] == right["y"]) == (options["viewport"]["width"] > 1_000)
    for _ in range(2):
        assert on.page.evaluate(fits)
        assert on.page.evaluate(in_view)
        on.page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        assert on.page.evaluate(in_view)
        on.page.click("#whole")
    assert "12,345" in on.page.inner_text("#answer-right")
    on.page.click("[data-choice=skip]")
    on.page.click("[data-choice=skip]")
    on.saved("#save-at-end")
    assert on.page.evaluate(fits)


def test_whatever_an_answer_holds_is_shown_as_text(opened):
    shown = [
        {**pair, "left": text(hostile), "right": text(hostile)}
        for pair, hostile in zip(pairs(12), HOSTILE, strict=True)
    ]
    for pair in shown:
        pair["prompt"].append({"role": SCRIPT, **text(SCRIPT)})
    on = opened(shown).start(SCRIPT)
    elements = "document.querySelectorAll('script, img, iframe, a, main').length"
    found, before = [], on.page.evaluate(elements)
    while on.page.is_visible("#pair"):
        found.append(on.page.evaluate("document.querySelector('#answer-left .text').textContent"))
        assert on.page.evaluate(elements) == before
        assert on.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if "שלום" in found[-1]:
            assert on.page.evaluate("document.querySelector('#answer-left .text').matches(':dir(rtl)')")
        assert SCRIPT in on.here()
        on.press("s")
    assert {*found} >= {*HOSTILE} - {"\u202eesrever\u2066", "a\x00b\ud83d"}
    assert {*found} >= {"⟨U+202E⟩esrever⟨U+2066⟩", "a␀b⟨U+D83D⟩"}
    assert on.page.title() == "a run: review, iteration 1"
    name, file = on.saved()
    assert name.startswith("votes-script-document-title")
    assert file["reviewer"] == SCRIPT
    assert on.asked == [on.page.url]
    assert on.said == []


def test_an_empty_answer_is_marked_as_one(opened):
    on = opened([pairs(1)[0] | {"left": text("")}]).start("Ann")
    mark = "getComputedStyle(document.querySelector('#answer-{} .text'), '::before').content"
    assert "empty" in on.page.evaluate(mark.format("left"))
    assert "empty" not in on.page.evaluate(mark.format("right"))


def test_without_the_browsers_storage_it_works_and_says_so(opened, browser):
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        "  Object.defineProperty(window, name, {get() { throw new DOMException('refused', 'SecurityError') }})"
    )
    on = opened(pairs(3), context).start("Ann")
    assert on.page.is_visible("#not-kept")
    on.press("1", "n", "2", "b")
    assert on.is_pressed("left")
    _, file = on.saved()
    assert [vote["choice"] for vote in file["votes"]] != []
    assert on.said == []
    context.close()


def test_the_focus_is_seen_and_stays_above_the_bar(opened):
    on = opened(
        [{**pair, "left": text("word " * 4_000)} for pair in pairs(2)], viewport={"width": 900, "height": 600}
    ).start("Ann")
    on.page.click("#whole")
    seen = """() => {
        const found = document.activeElement, bar = document.querySelector('.bar');
        const style = getComputedStyle(found), box = found.getBoundingClientRect();
        return [found.id || found.dataset.reason || found.dataset.choice, style.outlineStyle, bar.contains(found)
            || found.matches('.box') || box.bottom <= bar.getBoundingClientRect().top] }"""
    found = []
    for _ in range(20):
        on.press("Tab")
        found.append(on.page.evaluate(seen))
    shown = {name for name, _, _ in found}
    assert shown >= {
        "prompt",
        "answer-left",
        "answer-right",
        "wrong",
        "other",
        "note",
        "left",
        "both_bad",
        "skip",
        "next",
    }
    assert [one for one in found if one[0] and one[1:] != ["solid", True]] == []


@contextlib.contextmanager
def served(number, **more):
    """Serve pairs; yield the server, the addresses it has announced, and a list of the votes it is sent."""
    announced, recorded = [], []

    def record(reviewer, vote):
        if vote["note"] == "refuse":
            raise DataError("`note` is refused.")
        recorded.append((reviewer, vote))

    def votes_of(reviewer):
        return [vote for who, vote in recorded if who == reviewer]

    with ReviewServer(data_of(pairs(number)), votes_of, record, announce=announced.append, **more) as server:
        yield server, announced, recorded


def newest(recorded, reviewer):
    return {vote["pair"]: vote for who, vote in recorded if who == reviewer}


def test_the_local_server_gets_each_vote_at_once(browser):
    with served(3) as (server, announced, recorded):
        context = browser.new_context()
        on = Opened(context, announced[0])
        on.page.wait_for_selector("#start:visible")
        address = f"http://127.0.0.1:{server.port}/"
        assert on.page.url == address  # the token is gone
        on.start("Ann")
        first = on.here()
        on.press("1")
        on.page.wait_for_timeout(200)
        assert recorded == [("Ann", {"pair": first, "choice": "left", "reasons": [], "note": ""})]
        on.press("w", "t")
        on.page.keyboard.type("why")
        on.press("Escape", "n", "s", "4", "n")
        on.page.get_by_text("Your votes are recorded.").wait_for()
        kept = newest(recorded, "Ann")
        assert kept[first] == {"pair": first, "choice": "left", "reasons": ["wrong"], "note": "why"}
        assert sorted(vote["choice"] for vote in kept.values()) == ["both_bad", "left", "skip"]
        assert on.saved()[1]["votes"] == [kept[f"pair-{number:02}"] for number in range(3)]
        on.page.reload()  # with the session
        on.page.wait_for_selector("#end:visible")
        assert {*on.asked} - {f"{address}{path}" for path in ("session", "page", "votes-of", "votes")} == {address}
        assert on.said == []
        context.close()
        # In another browser, the used address is refused and the new one goes on.
        context = browser.new_context()
        late = Opened(context, announced[0])
        late.page.wait_for_selector("#opening:visible")
        assert "spin-trl review" in late.page.inner_text("#opening-text")
        late = Opened(context, announced[1])
        late.page.wait_for_selector("#start:visible")
        late.start("Ann")
        assert late.page.is_visible("#end")
        context.close()


def test_votes_that_the_server_did_not_get_are_kept_and_sent_again(browser):
    context = browser.new_context()
    with served(3) as (server, announced, recorded):
        on = Opened(context, announced[0])
        on.page.wait_for_selector("#start:visible")
        on.start("Ann")
        first = on.here()
        on.page.fill("#note", "refuse")
        on.page.click("[data-choice=left]")
        on.page.wait_for_selector("#unsent:visible")
        assert "`note` is refused." in on.page.inner_text("#unsent")
        on.page.click("#next")
        second = on.here()
        on.page.click("[data-choice=right]")
        on.page.wait_for_timeout(300)
        assert newest(recorded, "Ann").keys() == {second}  # one refusal keeps no other vote
        on.page.click("#back")
        on.page.fill("#note", "")
        on.page.click("#send-again")
        on.page.wait_for_selector("#unsent", state="hidden")
        assert newest(recorded, "Ann").keys() == {first, second}
        port = server.port
    on.page.click("#next")
    on.page.click("#next")
    third = on.here()
    on.page.click("[data-choice=both_bad]")
    on.page.wait_for_selector("#unsent:visible")
    assert "1 vote" in on.page.inner_text("#unsent")
    with served(3, port=port) as (server, announced, recorded):
        on.page.click("#send-again")  # the session was the other server's
        on.page.get_by_text("newest address").wait_for()
        on.page.goto("about:blank")
        on.page.goto(announced[0])
        on.page.wait_for_selector("#pair:visible")
        on.page.wait_for_timeout(300)
        assert {pair: vote["choice"] for pair, vote in newest(recorded, "Ann").items()} == {
            first: "left",
            second: "right",
            third: "both_bad",
        }
    context.close()


@pytest.mark.skipif(AXE is None, reason="`AXE_CORE` names no axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [PHONE, {}], ids=["phone", "desktop"])
def test_axe_finds_nothing_serious(opened, scheme, options):
    on = opened([{**pair, "left": text("word " * 2_000, 5)} for pair in pairs(2)], color_scheme=scheme, **options)
    on.page.evaluate(Path(AXE).read_text(encoding="utf-8"))

    def check():
        found = on.page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        assert [
            (one["id"], one["nodes"][0]["html"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ] == []

    check()
    on.start("Ann")
    check()
    on.page.click("text=Wrong")
    on.page.click("[data-choice=both_good]")
    check()
    on.page.click("#next")
    on.page.click("[data-choice=skip]")
    check()
    on.saved("#save-at-end")
    check()
