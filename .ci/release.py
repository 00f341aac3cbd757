"""Make the changes of a release in the repository's files; RELEASE.md says when. Needs only Python.

python3 .ci/release.py owner NAME       set the account of the repository in every URL
python3 .ci/release.py version 0.2.0    set the version, today's date, and the changelog's heading
python3 .ci/release.py check v0.2.0     check that a tag, the package, CITATION.cff and the changelog agree
python3 .ci/release.py notes v0.2.0     print the changelog of a version, for the release's page
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path("spin_trl/__init__.py")
CITATION = Path("CITATION.cff")
CHANGELOG = Path("CHANGELOG.md")
SETTINGS = Path("setup.cfg")

UNRELEASED = "## [Unreleased]"


def main(arguments: Sequence[str] | None = None, top: Path = Path(__file__).parents[1]) -> None:
    """Run one command; exit with a message if something is wrong."""
    parser = argparse.ArgumentParser(
        prog=".ci/release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["owner", "version", "check", "notes"])
    parser.add_argument("value", help="an account, a version or a tag")
    options = parser.parse_args(arguments)
    version = options.value.removeprefix("v")
    if options.command == "owner":
        print("\n".join(set_owner(top, options.value)))
    elif options.command == "version":
        set_version(top, version, datetime.date.today())
    elif options.command == "check":
        if disagreements := check(top, version):
            sys.exit("\n".join(disagreements))
    else:
        print(notes(read(top / CHANGELOG), version))


def set_owner(top: Path, owner: str) -> list[str]:
    """Set the account in every URL of the repository and its pages, and return the files that have changed.

    The account that is there now stands in setup.cfg, so the repository can move again.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:-?[A-Za-z0-9])*", owner):
        sys.exit(f"{owner!r} is no account on GitHub: letters, digits, and single hyphens between them.")
    now = current_owner(read(top / SETTINGS))
    address = re.compile(rf"\b{re.escape(now)}(?=/spin_trl\b|\.github\.io/spin_trl\b)")
    listed = subprocess.run(
        ["git", "grep", "--untracked", "-lIz", "-E", rf"\b{re.escape(now)}(/|\.github\.io/)spin_trl\b"],
        cwd=top,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    files = [name for name in listed.stdout.split("\0") if name]
    for name in files:
        write(top / name, address.sub(owner, read(top / name)))
    return files


def current_owner(settings: str) -> str:
    """Return the account in the `url` of setup.cfg."""
    found = re.search(r"^url = https://github\.com/([\w-]+)/spin_trl$", settings, re.MULTILINE)
    if not found:
        sys.exit("setup.cfg has no line `url = https://github.com/ACCOUNT/spin_trl`.")
    return found[1]


def set_version(top: Path, version: str, day: datetime.date) -> None:
    """Set the version in the package, in CITATION.cff, and in the changelog, where unreleased entries move to it."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", version):
        sys.exit(f"{version!r} is no version. Write it as 1.2.3, or 1.2.3rc1 for one that is only tried.")
    changelog = released(read(top / CHANGELOG), version, day)
    replace(top / PACKAGE, r'^__version__ = ".*"$', f'__version__ = "{version}"')
    replace(top / CITATION, r"^version: .*$", f"version: {version}")
    replace(top / CITATION, r"^date-released: .*$", f"date-released: {day.isoformat()}")
    write(top / CHANGELOG, changelog)


def released(changelog: str, version: str, day: datetime.date) -> str:
    """Return the changelog with its unreleased entries under a version's heading, and a link to compare versions."""
    if f"## [{version}]" in changelog:
        sys.exit(f"{CHANGELOG} has a version {version} already.")
    if not notes(changelog, "Unreleased"):
        sys.exit(f"{CHANGELOG} says nothing under {UNRELEASED}: write first what users will notice.")
    compare = re.compile(r"^\[Unreleased\]: (?P<base>.*)/compare/(?P<last>v\S+)\.\.\.HEAD$", re.MULTILINE)
    if not compare.search(changelog):
        sys.exit(f"{CHANGELOG} has no line `[Unreleased]: .../compare/vLAST...HEAD` at its end.")
    changelog = changelog.replace(f"{UNRELEASED}\n", f"{UNRELEASED}\n\n## [{version}] - {day.isoformat()}\n", 1)
    return compare.sub(
        rf"[Unreleased]: \g<base>/compare/v{version}...HEAD\n[{version}]: \g<base>/compare/\g<last>...v{version}",
        changelog,
    )


def check(top: Path, version: str) -> list[str]:
    """Return a sentence for each file with another version."""
    said = {
        PACKAGE: re.findall(r'^__version__ = "(.*)"$', read(top / PACKAGE), re.MULTILINE),
        CITATION: re.findall(r"^version: (.*)$", read(top / CITATION), re.MULTILINE),
        CHANGELOG: re.findall(r"^## \[(\d.*?)\]", read(top / CHANGELOG), re.MULTILINE)[:1],
    }
    return [
        f"{path} has version {', '.join(found) or 'none'}, and not {version}."
        for path, found in said.items()
        if found != [version]
    ]


def notes(changelog: str, version: str) -> str:
    """Return the changelog's text under a version's heading."""
    found = re.search(
        rf"^## \[{re.escape(version)}\][^\n]*\n(?P<text>.*?)(?=^## |^\[[^\]\n]+\]: |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if not found:
        sys.exit(f"{CHANGELOG} has no heading for {version}.")
    return found["text"].strip()


def replace(path: Path, pattern: str, line: str) -> None:
    """Replace the one line of a file that matches."""
    text, number = re.subn(pattern, line, read(path), flags=re.MULTILINE)
    if number != 1:
        sys.exit(f"{path} has {number} lines like {pattern}, and should have one.")
    write(path, text)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
