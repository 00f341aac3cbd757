"""`spin-trl report` writes the report of a run in its current state, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from made_up import record, write_run
from made_up import stage as made_up_stage
from messages import names
from read_only import read_only
from refusals import refusal
from runs import contents
from spin_trl.cli import main

REPORTED = record(made_up_stage("start", range(20)), made_up_stage("iteration-0", range(60)), best="iteration-0")


def test_the_report_of_a_run_is_written_and_its_path_printed(tmp_path, capsys):
    path = write_run(tmp_path / "run", REPORTED)
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path / "report.html")
    assert "40.0\u00a0points above the start" in (path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("run", ["nowhere", ".", "file"])
def test_the_report_of_what_is_no_run_is_refused(tmp_path, capsys, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine", encoding="utf-8")
    assert names(refusal(capsys, "report", run), run, "recipe.yaml")
    assert not list(tmp_path.glob("**/report.html"))


@pytest.mark.parametrize("command", ["report", "card", "push"])
def test_a_folder_with_nothing_but_a_recipe_is_no_run(tmp_path, capsys, command):
    """Nothing is written there: neither an empty report nor a card."""
    (tmp_path / "recipe.yaml").write_text("num_iterations: 2\n", encoding="utf-8")
    assert names(refusal(capsys, command, str(tmp_path)), tmp_path, "journal.jsonl", ".spin_trl.json")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_report_of_a_run_that_cannot_be_written_to_goes_elsewhere(tmp_path, capsys):
    """For a read-only mount, or another user's run, the refusal names the option, which leaves the run unchanged."""
    path = write_run(tmp_path / "run", REPORTED)
    before = contents(path)
    with read_only(path):
        assert names(refusal(capsys, "report", str(path)), path, "--output")
        for output in (tmp_path / "mine.html", tmp_path):
            assert main(["report", str(path), "--output", str(output)]) == 0
            written = Path(capsys.readouterr().out.strip())
            assert written == (output if output != tmp_path else tmp_path / "report.html")
            assert "40.0\u00a0points above the start" in written.read_text(encoding="utf-8")
        assert names(refusal(capsys, "report", str(path), "--output", str(path / "a.html")), path / "a.html")
    assert contents(path) == before
    absent = tmp_path / "absent" / "a.html"
    assert names(refusal(capsys, "report", str(path), "--output", str(absent)), absent)


def test_a_report_takes_no_settings(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["report", str(tmp_path), "--num_iterations", "3"])
    assert error.value.code == 2
    assert names(capsys.readouterr().err, "--num_iterations 3")


def test_a_report_needs_neither_torch_nor_the_trainers(tmp_path):
    """It takes a second or two, and works for a copy of a run."""
    path = write_run(
        tmp_path / "run",
        record(made_up_stage("start", range(20)), made_up_stage("iteration-0", range(60)), best="iteration-0"),
    )
    code = (
        "import sys; from spin_trl.cli import main; main(['report', sys.argv[1]]);"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "[]"
