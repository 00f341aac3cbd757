"""The command accepts each of a sample of the fuzzer's inputs, or says what is wrong with it. `make fuzz` tries many
more.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from datasets.fingerprint import get_temporary_cache_files_directory

from fuzz import inputs, values
from fuzz.judge import Kind, Limits, Outcome, judge
from fuzz.materials import Materials
from fuzz.parts import Input
from fuzz.session import compared, main, prepared, try_one
from fuzz.table import Tried, failures_by_cause, table

WITHOUT_RUNS = ("data files", "recipes", "settings", "paths", "functions", "models", "configurations")
FAST = [seed for seed in range(10, 50) if inputs.kind_of(seed) in WITHOUT_RUNS]
SLOW = range(100, 260)

KNOWN: dict[int, str] = {}
"""Inputs that fail today, by their seeds, each with the reason. If you fix one, remove it."""


def inputs_of(seeds: Iterable[int]) -> list[ParameterSet]:
    """Return seeds, with the kind of their inputs in the names of their tests."""
    marks = {seed: [pytest.mark.xfail(reason=reason, strict=True)] for seed, reason in KNOWN.items()}
    return [pytest.param(seed, id=f"{inputs.kind_of(seed)}-{seed}", marks=marks.get(seed, [])) for seed in seeds]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder that everybody may read."""
    with tempfile.TemporaryDirectory(prefix="spin-trl-fuzz-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def materials(folder: Path) -> Materials:
    """Return the materials for inputs that need no run."""
    return Materials(folder, lambda *_: 1)


@pytest.fixture(scope="module")
def with_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materials]:
    """Return the materials for all inputs."""
    with tempfile.TemporaryDirectory(prefix="spin-trl-fuzz-") as name:
        os.chmod(name, 0o755)
        yield prepared(Path(name))


def check(seed: int, materials: Materials) -> None:
    one = try_one(seed, materials.folder, materials)
    assert not one.outcome.is_failure, f"{failures_by_cause([one])}{one.outcome.printed[-3000:]}"


@pytest.mark.parametrize("seed", inputs_of(FAST))
def test_it_is_taken_or_refused_with_a_message(seed: int, materials: Materials) -> None:
    check(seed, materials)


@pytest.mark.slow
@pytest.mark.parametrize("seed", inputs_of(SLOW))
def test_every_kind_is_taken_or_refused_with_a_message(seed: int, with_runs: Materials) -> None:
    check(seed, with_runs)


# ---- the fuzzer itself -----------------------------------------------------------------------------------------------


def test_a_seed_makes_the_same_input_again(materials: Materials, tmp_path: Path) -> None:
    for seed in FAST[:20]:
        made = []
        for number in range(2):
            inside = tmp_path / str(number) / str(seed)
            inside.mkdir(parents=True)
            files = {}
            one = inputs.make(seed, inside, materials)
            for path in sorted(path for path in inside.rglob("*") if path.is_file()):
                files[path.relative_to(inside)] = path.read_bytes()
            made.append((one, files))
        assert made[0] == made[1]


def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, do: str) -> Outcome:
    """Return the judgement of a command that runs this code."""
    (tmp_path / "it").mkdir()
    names = {"main": None}
    exec(f"def main(arguments):\n    import os, sys, time\n    from spin_trl.errors import DataError\n    {do}", names)
    monkeypatch.setattr("fuzz.judge.main", names["main"])
    return judge([], tmp_path / "it", Limits(seconds=1, waiting=2.0, memory=2**29))


@pytest.mark.parametrize(
    ("do", "kind", "cause"),
    [
        ("return 0", Kind.ACCEPTED, ""),
        ("print('spin-trl: No.', file=sys.stderr); return 2", Kind.REFUSED, ""),
        ("print('spin-trl plan: error: No.', file=sys.stderr); sys.exit(2)", Kind.REFUSED, ""),
        ("return 2", Kind.EXIT, "exit code 2 without a message"),
        ("print('spin-trl: No.', file=sys.stderr); return 3", Kind.EXIT, "exit code 3"),
        ("os.abort()", Kind.EXIT, "ended by SIGABRT at ?"),
        ("os._exit(0)", Kind.ACCEPTED, ""),
        ("1 / 0", Kind.TRACEBACK, "ZeroDivisionError at <string>:main"),
        ("print('Traceback (most recent call last):', file=sys.stderr); return 0", Kind.TRACEBACK, "printed"),
        ("raise MemoryError", Kind.MEMORY, "MemoryError"),
        ("bytearray(2**30)", Kind.MEMORY, "MemoryError"),
        ("time.sleep(60)", Kind.HANG, "hang"),
        ("exec('while True: pass')", Kind.HANG, "hang"),
    ],
)
def test_every_outcome_is_told_from_the_others(
    do: str, kind: Kind, cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = command(monkeypatch, tmp_path, do)
    assert found.kind == kind
    assert cause in found.cause


@pytest.mark.parametrize(
    ("error", "kind"), [("DataError", Kind.REFUSED), ("OSError", Kind.REFUSED), ("KeyError", Kind.UNFORESEEN)]
)
def test_a_message_of_an_error_that_nobody_has_foreseen_is_none(
    error: str, kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    do = f"""
    try:
        raise {error}('a')
    except Exception:
        print('spin-trl: No.', file=sys.stderr)
        return 1"""
    assert command(monkeypatch, tmp_path, do).kind == kind


def test_rows_without_a_cache_are_written_where_an_input_may_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`datasets` keeps the folder for them once it has created it, as an earlier test may have done."""
    get_temporary_cache_files_directory()
    do = """
    import pathlib
    from datasets.fingerprint import get_temporary_cache_files_directory
    pathlib.Path(get_temporary_cache_files_directory(), "rows").write_text("a", encoding="utf-8")
    return 0"""
    found = command(monkeypatch, tmp_path, do)
    assert found.kind == Kind.ACCEPTED, found.printed


def test_an_input_changes_nothing_outside_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise, a mistake of the package could delete files of a user who fuzzes as root."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine", encoding="utf-8")
    do = f"""
    import pathlib, shutil
    pathlib.Path("own").mkdir()
    pathlib.Path("own/file").write_text("a", encoding="utf-8")
    pathlib.Path("/dev/null").write_text("a", encoding="utf-8")
    shutil.rmtree("own")
    shutil.rmtree({str(tmp_path / "mine")!r})"""
    assert command(monkeypatch, tmp_path, do).cause.startswith("PermissionError")
    assert (tmp_path / "mine" / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("kind", "journal", "found"),
    [
        (Kind.ACCEPTED, "a", Kind.ACCEPTED),
        (Kind.ACCEPTED, "b", Kind.WRONG),
        (Kind.REFUSED, "a", Kind.WRONG),
        (Kind.HANG, "a", Kind.HANG),
    ],
)
def test_what_is_in_order_has_to_be_read_as_it_is_elsewhere(
    kind: Kind, journal: str, found: Kind, tmp_path: Path
) -> None:
    entry = json.dumps({"phase": "prepare", "dataset": journal})
    (tmp_path / "journal.jsonl").write_text(f"{entry}\n", encoding="utf-8")
    assert compared(Outcome(kind, "", "", 0, 0.1, ""), tmp_path, "a").kind == found


def test_the_table_counts_what_was_tried() -> None:
    failed = Outcome(Kind.TRACEBACK, "KeyError at spin_trl/a.py:1 (f)", "'a'", 1, 0.1, "")
    outcomes = [
        Outcome(Kind.ACCEPTED, "", "", 0, 0.1, ""),
        Outcome(Kind.REFUSED, "", "No.", 2, 0.1, ""),
        failed,
        failed,
    ]
    tried = [Tried(seed, "paths", Input([], "odd"), outcome) for seed, outcome in enumerate(outcomes)]
    assert table(tried).splitlines()[-1].split() == ["all", "4", "1", "1", "2", "0", "0", "0", "0", "0"]
    assert failures_by_cause(tried).splitlines()[0] == "2 tracebacks: KeyError at spin_trl/a.py:1 (f)"
    assert "--only 2 3" in failures_by_cause(tried)


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 0), (ValueError("nested too deeply"), 1)])
def test_what_was_tried_is_shown_if_it_ends_early(
    end: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C, or a fault of the fuzzer's own, the table of the earlier inputs is printed."""

    def tried(*_: object) -> Iterator[Tried]:
        yield Tried(7, "paths", Input([], "odd"), Outcome(Kind.ACCEPTED, "", "", 0, 0.1, ""))
        raise end

    monkeypatch.setattr("fuzz.session.prepared", lambda folder: None)
    monkeypatch.setattr("fuzz.session._tried", tried)
    assert main(["--seed", "7", "--number", "3"]) == code
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "1", "1", "0", "0", "0", "0", "0", "0", "0"] in lines


def test_what_no_writer_writes_is_written() -> None:
    assert values.as_json(["@@BEYOND FLOAT@@"]) == "[1e400]"
    assert values.as_yaml({"seed": "@@DIGITS@@"}) == f"seed: {'9' * 5_000}\n"
