"""Pages for the tests of documents: their links and anchors, and the repository's address."""

from __future__ import annotations

import configparser
import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
README = TOP / "README.md"

SITE: dict[str, Any] = tomllib.loads((TOP / "zensical.toml").read_text(encoding="utf-8"))["project"]
"""The settings of the documentation site."""

_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#* *$", re.MULTILINE)


class Link(NamedTuple):
    """A link or an image of a page.

    Attributes:
        is_image: whether it is shown in the page.
        target: the URL or path, without its anchor.
        anchor: the part after `#`; empty if there is none.
    """

    is_image: bool
    target: str
    anchor: str


def setup_url() -> str:
    """Return the repository's address, which is set in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg", encoding="utf-8")
    return config["metadata"]["url"].rstrip("/")


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[Link]:
    """Return all links and images of a page, except those in code."""
    found = _LINK.findall(_CODE.sub(lambda code: "`" + "x" * (len(code[0]) - 2) + "`", prose(text)))
    return [Link(bool(mark), *_split(target)) for mark, target in found]


def _split(target: str) -> tuple[str, str]:
    path, _, anchor = target.partition("#")
    return path, anchor


def headings(text: str) -> list[str]:
    """Return the headings of a page as a reader sees them."""
    shown = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in _HEADING.findall(prose(text)))
    return [re.sub(r"[`*]", "", heading) for heading in shown]


def github_anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    return _numbered(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text))


def site_anchors(text: str) -> set[str]:
    """Return the anchors that Python-Markdown gives them on the site."""
    plain = (unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode() for one in headings(text))
    slugs = (re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in plain)
    return _numbered(slugs, separator="_")


def _numbered(slugs: Any, separator: str = "-") -> set[str]:
    """Return slugs, with a number appended to repeated ones."""
    found: set[str] = set()
    for slug in slugs:
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}{separator}{number}"
        found.add(unique)
    return found


def pages() -> list[Path]:
    """Return the pages of the documentation site, by path."""
    return sorted(DOCS.rglob("*.md"))


def navigation(entries: list[Any] | None = None) -> list[str]:
    """Return the pages that the site's navigation names, in its order."""
    found: list[str] = []
    for entry in SITE["nav"] if entries is None else entries:
        (target,) = entry.values() if isinstance(entry, dict) else (entry,)
        found += navigation(target) if isinstance(target, list) else [target]
    return found
