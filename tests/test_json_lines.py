"""Objects are appended line by line, by any number of processes; errors about damage name the line."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from messages import refused
from spin_trl.json_lines import DamagedLineError, JsonLines


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines:
    return JsonLines(tmp_path / "lines.jsonl")


def test_what_another_one_adds_is_seen(lines: JsonLines) -> None:
    """Also by a process that has read the file before."""
    lines.append({"number": 1})
    assert lines.read() == [{"number": 1}]
    JsonLines(lines.path).append({"number": 2})
    assert lines.read() == [{"number": 1}, {"number": 2}]


def test_lines_that_were_read_are_not_parsed_again(lines: JsonLines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run reads its journal hundreds of times."""
    for number in range(5):
        lines.append({"number": number})
    before, parsed, loads = lines.read(), [], json.loads
    monkeypatch.setattr(json, "loads", lambda line: (parsed.append(line), loads(line))[1])
    assert lines.read() == before
    lines.append({"number": 5})
    assert lines.read() == [*before, {"number": 5}]
    assert len(parsed) == 1


def test_a_line_that_says_something_else_is_damage(lines: JsonLines) -> None:
    """Each line has its own checksum, which callers don't see. Lines of version 0.1.0 have none."""
    lines.path.write_text('{"number": 1}\n', encoding="utf-8")
    lines.append({"number": 2, "text": "ä"})
    lines.append({"number": 3})
    assert lines.read() == [{"number": 1}, {"number": 2, "text": "ä"}, {"number": 3}]
    lines.path.write_bytes(lines.path.read_bytes().replace(b'"number": 2', b'"number": 6'))
    with refused(DamagedLineError, lines.path, "line 2"):
        JsonLines(lines.path).read()


def test_another_file_under_the_name_is_read_whole(lines: JsonLines) -> None:
    """This holds even if it is longer than the one before."""
    lines.append({"number": 1})
    lines.read()
    lines.path.write_text('{"number": 7}\n{"number": 8}\n', encoding="utf-8")
    assert lines.read() == [{"number": 7}, {"number": 8}]
    lines.path.unlink()
    assert lines.read() == []


@pytest.mark.parametrize("bad", ['{"number": ', "[1]", "7", "\x00\x00", '{"number": "x', "[" * 100_000], ids=range(6))
def test_damage_in_the_middle_is_said_with_its_line(bad: str, lines: JsonLines) -> None:
    """Nothing is appended after it, and nothing is cut off."""
    content = '{"number": 1}\n' + bad + '\n{"number": 3}\n'
    lines.path.write_text(content, encoding="utf-8")
    for use in (lines.read, lambda: lines.append({"number": 4})):
        with refused(DamagedLineError, lines.path, "line 2"):
            use()
    assert lines.path.read_text(encoding="utf-8") == content


def test_a_whole_last_line_that_is_damaged_is_said_too(lines: JsonLines) -> None:
    """Only a line without its newline was still being written."""
    lines.path.write_text('{"number": 1}\n{"number": 2]\n', encoding="utf-8")
    with refused(DamagedLineError, lines.path, "line 2"):
        lines.read()


def test_an_object_of_another_shape_is_damage(tmp_path: Path) -> None:
    """The caller says what an object must have."""
    lines = JsonLines(tmp_path / "lines.jsonl", lambda found: None if "number" in found else "no `number`")
    lines.path.write_text('{"number": 1}\n{"letter": "a"}\n', encoding="utf-8")
    with refused(DamagedLineError, lines.path, "line 2", "`number`"):
        lines.read()


def test_numbers_that_json_does_not_know_are_null(lines: JsonLines) -> None:
    """Strict JSON can be read by every tool; NaN, which version 0.1.0 wrote, is read, too."""
    lines.append({"loss": math.nan, "all": [math.inf, 1.5], "of": {"it": -math.inf}})
    assert lines.read() == [{"loss": None, "all": [None, 1.5], "of": {"it": None}}]
    assert "NaN" not in lines.path.read_text(encoding="utf-8")
    lines.path.write_text('{"loss": NaN}\n', encoding="utf-8")
    assert math.isnan(lines.read()[0]["loss"])


def test_threads_may_read_and_write_at_the_same_time(lines: JsonLines) -> None:
    """Pushes in the background are recorded while the run is playing."""

    def work(thread: int) -> None:
        for number in range(40):
            lines.append({"thread": thread, "number": number})
            assert lines.read()[0]["number"] == 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for thread in range(4):
        assert [line["number"] for line in lines.read() if line["thread"] == thread] == list(range(40))
    assert lines.read() == JsonLines(lines.path).read()
