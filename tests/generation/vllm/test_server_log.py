"""A server's last lines are shown as safe text."""

from pathlib import Path

from spin_trl.generation.vllm.server_log import last_lines, read_log


def test_a_log_is_read_from_a_place_on_and_is_safe_to_show(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n\x1b[1;36mblue\x1b[0m\xff\x00 10%\r 20%\nkey=the-key api_key: abc\n")
    assert read_log(log, len("before\n"), ["the-key"]) == "blue\ufffd␀ 10%\n 20%\nkey=*** api_key: ***\n"


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\n" + "x" * (1 << 20) + "\nlast\n", encoding="utf-8")
    text = read_log(tmp_path / "log")
    assert text.endswith("last\n")
    assert len(text) < 1 << 20


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log") == ""


def test_last_lines_leave_out_empty_ones_and_are_cut() -> None:
    assert last_lines("a\n\nb\n  \nc\n", 2) == "  b\n  c"
    assert len(last_lines("x" * 5000)) < 500
    assert last_lines("") == ""
