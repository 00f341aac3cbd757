"""A terminal shows a phase's progress while it runs, and everything else is restored afterwards."""

import io
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console
from rich.progress import Task
from transformers.utils import logging as transformers_logging

import tiny
from messages import names
from runs import build
from spin_trl import SelfPlay
from spin_trl.data.columns import is_text
from spin_trl.play.console import intention, show, table_so_far
from spin_trl.report.status import PhaseProgress
from spin_trl.run.stage import START


def watched_run(model: Path, terminal: str | None, **settings: object) -> tuple[SelfPlay, str]:
    """Play a run whose console is a terminal of some type, or none; return everything that was written to it."""
    run = build(model, **settings)
    file = io.StringIO()
    environment = {"TERM": terminal or ""}  # its own, since rich may have been imported earlier under another one
    run._console = Console(
        file=file,
        width=120,
        height=40,
        force_terminal=terminal is not None,
        color_system=None,
        _environ=environment,
    )
    run.run()
    return run, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


def test_a_terminal_shows_what_runs_and_the_table_so_far(
    llama_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the libraries' progress bars, which would break it, is shown."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    _, said = watched_run(llama_folder, terminal="xterm", disable_tqdm=False, num_train_epochs=6, learning_rate=1e-3)
    assert re.search(r"iteration-0: generate, \d+ of 12 answers", said)
    assert re.search(r"iteration-1: train, \d+ of 18 steps, [\d.,]+(/s| s each), \d+:\d\d left, run \d+:\d\d", said)
    assert re.search(r"│ start \*? +│ \d\.\d+", said)
    assert "%|" not in capfd.readouterr().err
    # The lines that stay are one per phase, and the table once, at the end.
    assert said.count("iteration-0: train: 18 steps") == 1
    assert said.rindex("run, iterations 0 to 1") > said.rindex("iteration-1: evaluate: NLL")


@pytest.mark.parametrize("terminal", [None, "dumb"])
def test_without_a_terminal_every_table_stays(llama_folder: Path, terminal: str | None) -> None:
    """Nothing can be redrawn in a log, nor on a terminal without cursor movement, such as an editor's shell."""
    _, said = watched_run(llama_folder, terminal=terminal)
    assert "answers," not in said
    assert said.count("run, iterations 0 to") == 2


def test_a_log_says_what_the_run_will_do_and_how_far_it_is(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With `nohup`, Slurm or CI, nothing can be redrawn, so progress must be printed regularly."""
    monkeypatch.setattr("spin_trl.report.status.LOGS_EVERY", 0.02)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    run, said = watched_run(llama_folder, terminal=None, disable_tqdm=False, num_train_epochs=6, history=1)
    lines = said.splitlines()
    assert names(lines[0], 15, str(run.directory.path))  # 3 of them are then held out
    assert names(lines[1], str(run.directory.path), "one process", "generate", "train", "evaluate", 2)
    trained = [entry["steps"] for entry in run.state.journal.entries() if entry["phase"] == "train"]
    assert trained == [18, 36]  # 12 rows, 4 pairs per step, 6 epochs; with history the second has twice the pairs
    assert names(lines[2], 12, 3, 54, 18, 36)
    assert names(lines[3], 3, "NLL")  # what judges the models; then, what nothing judges
    missing = ("`scorer`", "`degeneration_stop`", "`test_name`", "`retain_name`", "`human_review`")
    assert all(names(line, setting) for line, setting in zip(lines[4:9], missing, strict=True))
    assert "Already finished" not in said
    when = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    assert all(re.match(when, line) for line in lines if re.search("iteration-[01]: ", line))
    assert re.search(
        when + r"iteration-1: train, \d+ of 36 steps, [\d.,]+(/s| s each), \d+:\d\d left", said, re.MULTILINE
    )
    assert "%|" not in capfd.readouterr().err

    again = watched_again(run)
    assert "Already finished: everything up to iteration-1: evaluate" in again
    assert (
        said.count("chat template") == again.count("chat template") == 2
    )  # on one line: the model has a template, and how to apply it


def watched_again(run: SelfPlay) -> str:
    """Return the log of a finished run that is called again."""
    run._console = Console(file=io.StringIO(), width=200, force_terminal=False)
    run.run()
    return run._console.file.getvalue()


@pytest.mark.parametrize(
    ("kind", "sources", "part"),
    [
        ("prompt-completion", {}, "messages"),
        ("prompt-completion", {"as_conversations": False}, "`as_conversations: true`"),
        ("messages", {}, None),
    ],
)
def test_a_run_on_plain_text_says_once_that_no_chat_template_is_applied(
    llama_folder: Path, kind: tiny.SFTKind, sources: dict[str, Any], part: str | None
) -> None:
    """This holds for Python as well. The line says how to apply the template, since the model has one. Conversations
    need no such line.
    """
    run = build(llama_folder, num_iterations=1, train_dataset=tiny.sft(12, kind), sources=sources)
    run.run_phase("start", 0)
    lines = intention(run.state, run._phases, 1, is_text=is_text(run.train_dataset))
    said = [line for line in lines if "chat template" in line]
    assert [names(line, part) for line in said] == ([] if part is None else [True])


def test_the_log_of_a_phase_by_hand_says_how_far_it_is(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm job runs a single phase. The progress of phases launched by a loop is reported only by the loop."""
    monkeypatch.setattr("spin_trl.report.status.LOGS_EVERY", 0.02)
    said = {}
    for launched in (False, True):
        if launched:
            monkeypatch.setenv("SPIN_TRL_LAUNCHED", "1")
        run = build(llama_folder, num_train_epochs=6, run_dir=str(llama_folder.parent / f"by-hand-{launched}"))
        run._console = Console(file=io.StringIO(), width=200, force_terminal=False)
        for phase in ("start", "generate", "train"):
            run.run_phase(phase, 0)
        said[launched] = run._console.file.getvalue()
    assert re.search(r"iteration-0: train, \d+ of 18 steps", said[False])
    assert said[True] == ""


@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_as_they_were_afterwards(llama_folder: Path, monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    """They belong to the caller, for example a notebook that continues after the run."""
    calls: list[str] = []
    if shown:
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
    else:
        monkeypatch.setenv("TQDM_DISABLE", "0")
    for library, name in ((datasets, "progress_bars"), (transformers_logging, "progress_bar")):
        for what in ("enable", "disable"):
            monkeypatch.setattr(library, f"{what}_{name}", lambda call=f"{what} {name}": calls.append(call))
    monkeypatch.setattr(datasets, "are_progress_bars_disabled", lambda: not shown)
    monkeypatch.setattr(transformers_logging, "is_progress_bar_enabled", lambda: shown)
    run, _ = watched_run(llama_folder, terminal="xterm", disable_tqdm=False, num_iterations=1)
    assert run.state.args.disable_tqdm is False
    assert os.environ.get("TQDM_DISABLE") == (None if shown else "0")
    # Four phases, including the start's, each switch them off, and on again if they were on.
    for name in ("progress_bars", "progress_bar"):
        assert calls.count(f"disable {name}") == 4
        assert calls.count(f"enable {name}") == (4 if shown else 0)


def test_a_plot_that_fails_does_not_end_the_run(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = build(llama_folder).state
    metrics = run.directory.metrics(START)
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"nll": 1.0}', encoding="utf-8")
    run.directory.recipe.write_text("num_iterations: 1", encoding="utf-8")
    monkeypatch.setattr("spin_trl.play.console.plot_run", lambda *_: 1 / 0)
    show(run, 0, START, None)
    assert (run.directory.path / "table.txt").is_file()
    assert any(names(message, "plot.png", "ZeroDivisionError") for message in caplog.messages)


@pytest.mark.parametrize(
    ("iterations", "arms", "height"), [(3, 1, 24), (6, 2, 24), (12, 1, 24), (12, 0, 40), (2, 2, 12)]
)
def test_a_small_terminal_shows_what_runs_and_the_newest_rows(
    llama_folder: Path, iterations: int, arms: int, height: int
) -> None:
    """Older iterations are left out and the start is kept; rich would cut off the end, with the newest."""
    run = build(
        llama_folder,
        num_iterations=iterations,
        baseline="sft" if arms else None,
        baseline_label_smoothing=[0.0, 0.1][:arms],
    ).state
    stages = ["start", *(f"iteration-{t}" for t in range(iterations))]
    stages += [f"baseline/{arm}/iteration-{t}" for arm in run.arms for t in range(iterations)]
    for stage in stages:
        path = run.directory.metrics(stage)
        path.parent.mkdir(parents=True)
        path.write_text(
            '{"nll": 1.0, "nll_se": 0.1, "nll_change": 0.1, "nll_change_low": 0.0, "nll_change_high": 0.2}',
            encoding="utf-8",
        )

    def renew(task: Task) -> None:
        task.completed, task.total, task.fields = 1, 2, {"what": "steps"}

    table = table_so_far(run, iterations - 1, 80, height)
    console = Console(file=io.StringIO(), width=80)
    progress = PhaseProgress(console, "iteration-9: train", table, renew)
    with console.capture() as capture:
        console.print(progress.get_renderable())
    lines = capture.get().splitlines()
    assert "iteration-9: train, 1 of 2 steps" in lines[0]
    shown = "\n".join(lines[:height])
    assert "start" in shown
    for name in (f"iteration {iterations - 1}", *(f"{arm.replace('-', ' ')} {iterations - 1}" for arm in run.arms)):
        assert name in shown or height < 20
