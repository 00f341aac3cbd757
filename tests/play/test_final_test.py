"""The test set is never trained on, affects no decision, and is measured once, at the end, for the final models alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from runs import ROWS, build, contents, entry, journal, logp, steps
from spin_trl.errors import DataError, RunDirectoryError
from spin_trl.play import final_test
from spin_trl.play.console import table_of_tests
from spin_trl.play.gate import judge
from spin_trl.play.loop import SelfPlay
from spin_trl.report.record import read_record
from spin_trl.report.write import gather
from spin_trl.run.directory import RunDirectory


def length(prompt: str, real: str, generated: str) -> float:
    """Scorer that returns the length."""
    return float(len(generated))


def rows(first: int, count: int) -> Dataset:
    return tiny.sft(first + count).select(range(first, first + count))


TEST_ROWS = 6


def session(model: Path, run_dir: str | Path = "run", **settings: Any) -> SelfPlay:
    """Play a run of two iterations with a supervised arm; its training data is the first 15 rows, its test set the
    next six.
    """
    settings = {"test_dataset": rows(ROWS, TEST_ROWS), "baseline": "sft", "scorer": length, **settings}
    return build(model, run_dir, **settings)


@pytest.fixture(scope="module")
def untested(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run without a test set."""
    folder = tmp_path_factory.mktemp("a run") / "run"
    session(llama_folder, folder, test_dataset=None).run()
    return folder


@pytest.fixture(scope="module")
def tested(llama_folder: Path, untested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, to which the test set was added after it had finished."""
    folder = tmp_path_factory.mktemp("tested") / "run"
    shutil.copytree(untested, folder, symlinks=True)
    session(llama_folder, folder).run()
    return folder


def finals(run_dir: Path) -> list[str]:
    """Return the stages that should be measured: the start, the best, and the arm's stage with the lowest NLL."""

    def nll(stage: str) -> float:
        return json.loads((run_dir / stage / "metrics.json").read_text(encoding="utf-8"))["nll"]

    best = min(("start", "iteration-0", "iteration-1"), key=nll)
    arm = min((f"baseline/sft/iteration-{t}" for t in (0, 1)), key=nll)
    return list(dict.fromkeys(["start", best, arm]))


def test_the_final_models_are_measured_once_at_the_end(untested: Path, tested: Path, llama_folder: Path) -> None:
    """The set is added to a finished run: nothing is played or decided again, and a second call does nothing."""
    before, after = steps(untested), steps(tested)
    assert after[: len(before)] == before
    assert after[len(before) :] == [("prepare", "test"), *(("test", stage) for stage in finals(tested))]
    assert len(finals(tested)) == 3, "the test needs a best model other than the start"
    result = session(llama_folder, tested).run()
    assert steps(tested) == after
    assert list(result.test_figures) == finals(tested)
    assert result.test_figures["start"]["prompts"] == TEST_ROWS


def test_the_figures_are_those_of_the_model(tested: Path, llama_folder: Path) -> None:
    """NLL and its difference from the start are computed by hand, from the models alone."""
    stored, nll = load_from_disk(str(tested / "data" / "test")), {}
    assert stored["prompt"][:] == rows(ROWS, TEST_ROWS)["prompt"][:]
    for stage in finals(tested):
        model = AutoModelForCausalLM.from_pretrained(
            llama_folder if stage == "start" else tested / stage / "model"
        ).eval()
        real = [logp(model, row["prompt_ids"], row["real_ids"]) for row in stored]
        nll[stage] = -sum(real) / sum(len(row["real_ids"]) for row in stored)
        found = json.loads((tested / stage / "test" / "metrics.json").read_text(encoding="utf-8"))
        answers = (tested / stage / "test" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        assert found["nll"] == pytest.approx(nll[stage], rel=1e-4)
        assert found["score"] == pytest.approx(sum(len(json.loads(line)["generated"]) for line in answers) / TEST_ROWS)
        assert found["prompts"] == TEST_ROWS
        if stage != "start":
            assert found["nll_change"] == pytest.approx(nll[stage] - nll["start"], abs=1e-4)
        assert "win_rate" not in found


def test_an_interrupted_test_goes_on_to_the_same_bytes(
    tested: Path, untested: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted when the second model has answered, before any of its results are recorded."""
    folder, measure_on, calls = tmp_path / "a run", final_test.measure_on, []
    shutil.copytree(untested, folder, symlinks=True)

    def killed(*arguments: Any, **kwargs: Any) -> Any:
        calls.append(measure_on(*arguments, **kwargs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(final_test, "measure_on", killed)
    with pytest.raises(KeyboardInterrupt):
        session(llama_folder, folder).run()
    assert [step for step in steps(folder) if step[0] == "test"] == [("test", "start")]
    monkeypatch.undo()
    session(llama_folder, folder).run()
    for stage in finals(tested):
        assert contents(folder / stage / "test") == contents(tested / stage / "test")
    assert contents(folder / "data" / "test", ignore=("dataset_info.json", "state.json")) == contents(
        tested / "data" / "test", ignore=("dataset_info.json", "state.json")
    )


def test_what_is_damaged_is_made_again(tested: Path, llama_folder: Path, tmp_path: Path) -> None:
    """Prepared rows and a model's results are rebuilt, and nothing else."""
    folder, stage = tmp_path / "a run", finals(tested)[1]
    shutil.copytree(tested, folder, symlinks=True)
    wanted = contents(folder / stage / "test")
    (folder / stage / "test" / "metrics.json").write_text("{}", encoding="utf-8")
    next((folder / "data" / "test").glob("*.arrow")).unlink()
    session(llama_folder, folder).run()
    new = steps(folder)[len(steps(tested)) :]
    assert set(new) == {("lost", "test"), ("lost", stage), ("prepare", "test"), ("test", stage)}
    assert len(new) == 4
    assert contents(folder / stage / "test") == wanted


def test_another_test_set_is_refused_once_a_model_was_measured(
    tested: Path, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving it out changes nothing: existing results are kept."""
    folder = tmp_path / "a run"
    shutil.copytree(tested, folder, symlinks=True)
    digest = entry("prepare", "test", folder)["dataset"]
    with refused(DataError, "`test_name`", digest, "start", folder):
        session(llama_folder, folder, test_dataset=rows(ROWS, TEST_ROWS - 1)).run()
    session(llama_folder, folder, test_dataset=None).run()
    assert steps(folder) == steps(tested)


def test_shown_wherever_results_are(tested: Path, untested: Path) -> None:
    """They appear in the report, the remarks of its verdict, and table.txt; without a test set, the report says that
    its figures were also used to choose.
    """
    record, stages = read_record(RunDirectory(tested)), finals(tested)
    page, other = (gather(RunDirectory(folder)) for folder in (tested, untested))
    assert len(page["final_test"].rows) == len(stages)
    assert other["final_test"] is None
    assert names(other["on_choice"], "`test_name`")
    assert not names(page["on_choice"], "`test_name`")
    value = f"{record.best_stage.test.figures['nll']:.3f}"
    assert any(names(remark, TEST_ROWS, value) for remark in page["remarks"])
    assert "Test set" in (tested / "report.html").read_text(encoding="utf-8")
    assert value in (tested / "table.txt").read_text(encoding="utf-8")
    table = table_of_tests(record, 200)
    assert table is not None
    assert table.row_count == len(stages)
    assert table_of_tests(read_record(RunDirectory(untested)), 200) is None


def test_no_decision_depends_on_it(tested: Path, untested: Path, llama_folder: Path) -> None:
    """The gate decides the same with and without the test figures; the best is chosen by held-out NLL."""
    play = session(llama_folder).state.play
    for iteration in (0, 1):
        verdicts = [judge(read_record(RunDirectory(folder)), play, iteration) for folder in (tested, untested)]
        assert verdicts[0] == verdicts[1]
    assert read_record(RunDirectory(tested)).best == read_record(RunDirectory(untested)).best


def test_the_test_phase_follows_the_last_iteration(llama_folder: Path) -> None:
    """This holds by hand as in a run; before that, the phase is refused."""
    one = build(llama_folder, test_dataset=rows(ROWS, 2), num_iterations=2)
    one.run_phase("start", 0)
    with refused(RunDirectoryError, "test"):
        one.run_phase("test", 0)
    assert not [line for line in journal() if line["phase"] == "test"]
