"""Output works if stdout or the locale only supports ASCII."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import runs
import spin_trl
from messages import names
from spin_trl.cli import main
from spin_trl.report import terminal

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python's own workarounds for such a locale are off, as for Latin-1 or on Windows."""


@pytest.mark.parametrize(
    ("encoding", "errors", "expected"),
    [("ascii", "strict", b"1 ? 2"), ("ascii", "surrogateescape", b"1 ? 2"), ("latin-1", "strict", b"1 \xb1 2")],
)
def test_what_stdout_can_not_encode_is_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str, expected: bytes
) -> None:
    """Other characters are unchanged."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, errors))
    terminal.console().print("1 ± 2", end="", highlight=False)
    sys.stdout.flush()
    assert written.getvalue() == expected


def test_in_utf_8_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not valid UTF-8 is printed unchanged if Python would do that."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8", "surrogateescape"))
    terminal.accept_every_character()
    print("± \udcff", end="", flush=True)
    assert written.getvalue() == b"\xc2\xb1 \xff"


@pytest.mark.parametrize("text", [r"regex:\d+[/-]\d+", "[bold]", "a [red]path[/]", ":smile:", "[link=x]"])
def test_text_is_no_markup(text: str) -> None:
    """This holds for lines, and for a table's title, headings and cells."""
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    written = io.StringIO()
    console = terminal.console(written, 60)
    console.print(text, highlight=False)
    console.print(table)
    assert written.getvalue().count(text) == 4


HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\rd\u202ee\x9b5mf"
"""Clears a terminal, sets its window title, returns to the start of the line, and reverses the text that follows."""

HARMLESS = "a␛[2Jb␛]0;title␇c␍d⟨U+202E⟩e⟨U+009B⟩5mf"


def test_text_steers_no_terminal() -> None:
    """This holds for lines and tables; our own colours are kept."""
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE, no_wrap=True)
    table.add_row(HOSTILE)
    written = io.StringIO()
    console = terminal.console(written, 60)
    console.print(HOSTILE, highlight=False, style="yellow")
    console.print(table)
    assert written.getvalue().count(HARMLESS) == 5
    assert "\x1b[2J" not in written.getvalue()


def test_an_error_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message may quote a name, a setting or a row."""
    if sys.getfilesystemencoding() == "ascii":
        pytest.skip("file names are ASCII in this process: it can't write this one")
    (tmp_path / HOSTILE).write_text("a: [", encoding="utf-8")
    assert main(["run", str(tmp_path / HOSTILE)]) == 2
    shown = capsys.readouterr().err
    assert names(shown, HARMLESS, "YAML")
    assert "\x1b" not in shown


def test_a_warning_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """This applies to warnings without a handler, as on the command line."""
    terminal.show_log_records_plainly()
    record = logging.LogRecord("spin_trl", logging.WARNING, "here", 1, "%s was passed over.", (HOSTILE,), None)
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == f"{HARMLESS} was passed over.\n"


def test_a_path_is_as_it_is_where_a_program_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cat $(spin-trl report runs/my)` finds the file regardless of its name."""
    assert terminal.shown_path(HOSTILE) == HOSTILE
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal.shown_path(Path(HOSTILE)) == HARMLESS


def test_every_console_is_made_here() -> None:
    """A console created elsewhere would interpret users' text as markup."""
    package = Path(spin_trl.__file__).parent
    modules = {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")
    }
    assert [name for name, source in modules.items() if "Console(" in source] == ["report/terminal.py"]
    assert [name for name, source in modules.items() if "rich.markup" in source] == []


def test_a_scorer_whose_name_looks_like_markup_is_shown(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables on the terminal and in the run directory contain it, and the run succeeds."""
    scorer = r"regex:\d+[/-]\d+"
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, scorer=["exact_match", scorer])
    assert main(["run", str(recipe)]) == 0
    capsys.readouterr()
    assert r"\d+[/-]\d+ %" in (tmp_path / "run" / "table.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_ends_well_where_the_locale_is_ascii(tmp_path: Path, llama_folder: Path) -> None:
    """The table contains ±, and data, recipe and file names contain non-ASCII text; files are UTF-8 everywhere."""
    folder = tmp_path / "Größe ★"
    recipe = runs.recipe(folder, llama_folder, num_iterations=1, scorer="regex:[ä★]+")
    recipe.write_text(recipe.read_text(encoding="utf-8") + "# θ₀ plays against itself\n", encoding="utf-8")
    data = folder / "train.jsonl"
    data.write_text(data.read_text(encoding="utf-8").replace("a", "ä"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "spin_trl", "run", str(recipe)],
        env={**os.environ, **ASCII, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="ascii",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " ?0." in done.stdout
    assert "Gr??e ?/run/report.html" in done.stdout
    table = (folder / "run" / "table.txt").read_text(encoding="utf-8")
    assert " ±0." in table
    assert "ä" in (folder / "run" / "iteration-0" / "samples.jsonl").read_text(encoding="utf-8")
    assert "regex:[ä★]+" in (folder / "run" / "report.html").read_text(encoding="utf-8")
