"""The documentation site works in a browser, wide and narrow, light and dark, without a request to another host.

Needs what `make docs` installs; the pages are opened only with the `playwright` package and a Chromium.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from documents.pages import DOCS, TOP, navigation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site in a copy of its sources."""
    for needed in ("zensical", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(needed, reason=f"there is no `{needed}`: `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "spin_trl"):
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "zensical.toml", folder)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "docs" / "extensions")},
        capture_output=True,
        encoding="utf-8",
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def place(page: str) -> str:
    """Return where a page is on the site."""
    return "" if page == "index.md" else f"{page.removesuffix('.md')}/"


def test_every_page_and_nothing_of_the_extensions_is_on_it(site):
    assert [page for page in navigation() if not (site / place(page) / "index.html").is_file()] == []
    assert not (site / "extensions").exists()
    assert (site / "objectives" / "index.html").read_text(encoding="utf-8").count("<math ") > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 800), (1280, 900)])
def test_its_pages_fit_and_ask_no_other_host(browser, address, size, scheme):
    said, asked, wide = [], set(), []
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    for name in navigation():
        page.goto(address + place(name))
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(name)
        assert (
            page.evaluate("document.body.getAttribute('data-md-color-scheme')")
            == {
                "light": "default",
                "dark": "slate",
            }[scheme]
        )
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert wide == []


def test_the_search_finds_a_setting(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("held_out_fraction")
    page.get_by_text(re.compile(r"^\d+ results?$")).wait_for(timeout=20_000)
    page.close()


def test_images_are_shown(site):
    for image in DOCS.glob("*.png"):
        assert (site / image.name).is_file()
