"""No test is lost: all tests that were collected before they moved into the package's folders still exist.

`collected/ids.jsonl.gz` holds their ids, and `collected/moved.json` what has another name now: whole files, single
tests, single cases. If you remove or rename a test in the list, name its successor there.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
COLLECTED = TESTS / "collected"

PLUGIN = """
import json, os
def pytest_collection_finish(session):
    with open(os.environ["COLLECTED"], "w", encoding="utf-8") as file:
        json.dump([item.nodeid for item in session.items], file)
"""


def successor(test: str, moved: dict[str, dict[str, str]]) -> str:
    """Return the current id of a test."""
    if test in moved["ids"]:
        return moved["ids"][test]
    function, bracket, case = test.partition("[")
    file, _, name = function.partition("::")
    return moved["tests"].get(function, f"{moved['files'].get(file, file)}::{name}") + bracket + case


def test_successors_are_found_by_case_by_test_and_by_file() -> None:
    moved = {"files": {"a.py": "b.py"}, "tests": {"a.py::two": "c.py::zwei"}, "ids": {"a.py::three[x]": "d.py::x"}}
    found = [successor(test, moved) for test in ("a.py::one[1]", "a.py::two[a::b]", "a.py::three[x]", "e.py::one")]
    assert found == ["b.py::one[1]", "c.py::zwei[a::b]", "d.py::x", "e.py::one"]


@pytest.mark.slow
def test_every_test_of_the_list_is_collected(tmp_path: Path) -> None:
    with gzip.open(COLLECTED / "ids.jsonl.gz", "rt", encoding="utf-8") as file:
        listed = [json.loads(line) for line in file]
    moved = json.loads((COLLECTED / "moved.json").read_text(encoding="utf-8"))
    (tmp_path / "listing.py").write_text(PLUGIN, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "listing",
            "-p",
            "no:cacheprovider",
            str(TESTS),
        ],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path, "COLLECTED": str(tmp_path / "collected.json")},
        capture_output=True,
        check=True,
        timeout=300,
    )
    collected = set(json.loads((tmp_path / "collected.json").read_text(encoding="utf-8")))
    assert len(listed) > 4_600
    assert [test for test in listed if successor(test, moved) not in collected] == []
