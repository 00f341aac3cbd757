"""Foreign text is shown as text: no output contains characters that hide, reorder or control."""

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from made_up import record, sample, stage, write_run
from spin_trl.cli import main
from spin_trl.errors import DataError, SpinError, noted
from spin_trl.hub.cards import pushed_names, run_facts, write_cards
from spin_trl.hub.dataset import PairsInfo
from spin_trl.hub.dataset_card import dataset_card
from spin_trl.hub.markdown import code, escaped, fenced
from spin_trl.report import terminal
from spin_trl.report.drawing import Chart
from spin_trl.report.record import read_record
from spin_trl.report.write import write_report
from spin_trl.run.directory import RunDirectory

UNSEEN = [
    *range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029,
    *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF, *range(0xE0000, 0xE0080),
]  # fmt: skip
HOSTILE = "begin " + "".join(f"{chr(code)}x" for code in UNSEEN) + " \u200d end\u200c"
HARMLESS = "שלום می\u200cخواهم 👩\u200d👩\u200d👧"
TEXT = f"{HOSTILE} {HARMLESS}"
_FOUND = re.compile(f"[{''.join(map(re.escape, map(chr, UNSEEN)))}]| \u200d|\u200c$", re.MULTILINE)


def is_shown_as_text(shown: str) -> bool:
    """Return whether no invisible character is left and meaningful text is unchanged."""
    return _FOUND.search(shown) is None and HARMLESS in shown and "⟨U+202E⟩" in shown and "⟨U+E0041⟩" in shown


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a run whose prompts, answers, roles, names, settings and scores all contain the same text."""
    names = "start", "iteration-0"
    rows = [
        sample(
            0,
            prompt=[{"role": TEXT, "content": TEXT}],
            real=TEXT,
            generated=f"{TEXT} more",
            finish_reason=TEXT,
            score={TEXT: 1.0},
        )
    ]
    settings = {"model_name_or_path": TEXT, "dataset_name": TEXT, "scorer": [TEXT], "hub_license": TEXT}
    made = record(*(stage(name, range(20)) for name in names), best="iteration-0")
    path = write_run(tmp_path / "run", made, dict.fromkeys(names, rows), **settings)
    (path / "iteration-0" / "model").mkdir(exist_ok=True)
    (path / "iteration-0" / "model" / "model.safetensors").write_bytes(b"weights")
    return RunDirectory(path)


def test_the_report(run: RunDirectory) -> None:
    """Right-to-left text keeps its own direction."""
    page = write_report(run).read_text(encoding="utf-8")
    assert is_shown_as_text(page)
    directed = [part.group(1) for part in re.finditer(r"<(\w+[^<>]*)>[^<>]*שלום", page)]
    assert directed
    assert {"bdi"} <= set(directed)
    others = {tag for tag in directed if 'dir="auto"' not in tag and tag.split()[0] not in ("bdi", "pre", "mark")}
    assert others <= {"title"}


def test_a_plot() -> None:
    chart = Chart("name", TEXT, TEXT, {TEXT: lambda axes: axes.plot([0, 1], [0, 1], label="line")})
    assert _FOUND.search(chart.svg) is None


def test_the_model_card(run: RunDirectory) -> None:
    """This covers its text and its metadata."""
    cards = [path.read_text(encoding="utf-8") for path in write_cards(run, pairs=False)]
    assert cards
    assert all(map(is_shown_as_text, cards))


def test_the_dataset_card(run: RunDirectory) -> None:
    record_of_run = read_record(run)
    facts = run_facts(run, record_of_run, pushed_names(record_of_run))
    pairs = PairsInfo(0, "text", 1, {TEXT: 1}, 0, label=TEXT, where=TEXT, digest=TEXT, sampling={TEXT: TEXT})
    assert is_shown_as_text(str(dataset_card(facts, [pairs])))


@pytest.mark.parametrize("write", [escaped, fenced, code])
def test_parts_of_cards(write: Callable[[str], str]) -> None:
    assert _FOUND.search(write(TEXT)) is None


def test_a_console_in_lines_and_in_tables() -> None:
    table = Table(title=TEXT, caption=TEXT)
    table.add_column(TEXT)
    table.add_row(TEXT)
    written = io.StringIO()
    console = terminal.console(written, 20_000)
    console.print(TEXT, highlight=False)
    console.print(table)
    assert is_shown_as_text(written.getvalue())
    assert written.getvalue().count(HARMLESS) == 5


def test_what_is_printed_and_logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert is_shown_as_text(terminal.printable(TEXT))
    assert is_shown_as_text(terminal.shown_path(TEXT))
    terminal.show_log_records_plainly()
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.LogRecord("spin_trl", logging.WARNING, "here", 1, "%s.", (TEXT,), None))
    assert is_shown_as_text(capsys.readouterr().err)


def test_an_error_wherever_it_is_shown() -> None:
    """This includes Python's own traceback and grouped errors; the original text stays in `args`."""
    reasons: list[str] = []

    def refuse() -> None:
        raise DataError(TEXT)

    noted(reasons, refuse)
    assert is_shown_as_text(reasons[0])
    assert is_shown_as_text(f"{SpinError(TEXT)}")
    assert SpinError(TEXT).args == (TEXT,)


def test_an_error_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error quotes a recipe's key."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({TEXT.replace("\u2028", ""): 1}), encoding="utf-8")
    assert main(["run", str(recipe)]) == 2
    assert _FOUND.search(capsys.readouterr().err) is None
