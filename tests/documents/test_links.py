"""Every link of the README, the recipes, the benchmarks and the documentation site works on GitHub and on the site."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from documents.pages import (
    DOCS,
    README,
    SITE,
    TOP,
    Link,
    github_anchors,
    headings,
    links,
    navigation,
    pages,
    setup_url,
    site_anchors,
)

URL = setup_url()
IN_TREE = re.compile(re.escape(URL) + r"/(?:blob|raw|tree)/main/(.+)")


def file_of(page: Path, link: Link) -> Path | None:
    """Return the file that a link leads to; None if it leads out of the repository."""
    if "://" not in link.target:
        return page.parent / link.target if link.target else page
    in_tree = IN_TREE.fullmatch(link.target)
    return TOP / in_tree[1] if in_tree else None


def is_broken(page: Path, link: Link) -> bool:
    path = file_of(page, link)
    if path is None:
        return False
    if not path.exists():
        return True
    if not link.anchor:
        return False
    text = path.read_text(encoding="utf-8")
    on_site = path.resolve().is_relative_to(DOCS)
    return link.anchor not in github_anchors(text) or (on_site and link.anchor not in site_anchors(text))


DOCUMENTS = [
    README,
    *(TOP / name for name in ("CONTRIBUTING.md", "RELEASE.md", "SECURITY.md", "CHANGELOG.md")),
    TOP / "benchmarks" / "README.md",
    *sorted((TOP / "recipes").rglob("*.md")),
    *pages(),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(TOP).as_posix())
def test_every_link_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    assert [link for link in links(text) if is_broken(path, link)] == []


def test_links_of_the_readme_are_absolute():
    """The README is also the package's page on PyPI, where relative links don't work."""
    found = links(README.read_text(encoding="utf-8"))
    assert [link for link in found if not link.target.startswith("https://")] == []
    assert len([link for link in found if IN_TREE.fullmatch(link.target)]) > 20


def test_an_image_of_the_readme_is_raw():
    """A page that shows a file is not an image."""
    images = [link.target for link in links(README.read_text(encoding="utf-8")) if link.is_image]
    assert images
    assert [target for target in images if not target.startswith(f"{URL}/raw/main/")] == []


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_page_leads_out_of_the_site_by_addresses(path):
    """The site contains only `docs`, so a relative path out of it leads nowhere there."""
    relative = [link.target for link in links(path.read_text(encoding="utf-8")) if "://" not in link.target]
    assert [one for one in relative if not (path.parent / one).resolve().is_relative_to(DOCS)] == []


def test_the_address_stands_in_one_form():
    """So a single replacement sets the owner everywhere."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True).stdout.decode()
    found = {}
    for name in filter(None, tracked.split("\0")):
        path = TOP / name
        if path.suffix in {".md", ".cfg", ".toml", ".yml", ".yaml", ".cff", ".py", ".json"} and path.is_file():
            text = path.read_text(encoding="utf-8")
            found_here = re.findall(r"https://github\.com/[\w-]+/spin_trl", text)
            others = {one for one in found_here if one not in (URL, "https://github.com/ACCOUNT/spin_trl")}
            found |= {name: others} if others else {}
    assert found == {}
    assert [one["link"] for one in SITE["extra"]["social"]] == [URL]
    owner = URL.removeprefix("https://github.com/").removesuffix("/spin_trl")
    assert SITE["site_url"] == f"https://{owner}.github.io/spin_trl/"


def test_the_navigation_has_every_page_once():
    assert sorted(navigation()) == [path.relative_to(DOCS).as_posix() for path in pages()]


def test_links_and_anchors_are_read_as_they_are_written():
    text = (
        "# A `b` page\n\nSee [it](x.md#top), ![a picture](p.png) and [`code`](y.md).\n\n"
        "```\n[not](there.md)\n# No heading\n```\n"
        "`[nor](here.md)`\n\n## What's new: α\n\n## What's new: α\n"
    )
    assert links(text) == [Link(False, "x.md", "top"), Link(True, "p.png", ""), Link(False, "y.md", "")]
    assert headings(text) == ["A b page", "What's new: α", "What's new: α"]
    assert github_anchors(text) == {"a-b-page", "whats-new-α", "whats-new-α-1"}
    assert site_anchors(text) == {"a-b-page", "whats-new", "whats-new_1"}


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Here\n\n[a](other.md) [b](#there) [c](#here)", encoding="utf-8")
    assert [is_broken(page, link) for link in links(page.read_text(encoding="utf-8"))] == [True, True, False]
    assert is_broken(page, Link(False, f"{URL}/blob/main/docs/nothing.md", ""))
    assert not is_broken(page, Link(False, f"{URL}/blob/main/docs/data.md", "files"))
