"""Retention measures how much every model has kept of other tasks, on rows never trained on, compared with the start."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from play import harness_tasks
from runs import build, contents, entry, logp, steps
from spin_trl.errors import DataError, RecipeError
from spin_trl.play import retention
from spin_trl.play.gate import judge
from spin_trl.play.loop import SelfPlay
from spin_trl.report.record import read_record
from spin_trl.report.write import gather
from spin_trl.run.directory import RunDirectory

STAGES = ("start", "iteration-0", "baseline/sft/iteration-0")
KEPT = 5
"""Number of rows of the retention set."""


def other_tasks(count: int = KEPT) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": f"{name} counts to {n}.", "completion": f" {n} is enough."}
            for n, name in enumerate(tiny.NAMES[:count])
        ]
    )


def session(model: Path, run_dir: str | Path = "run", **settings: Any) -> SelfPlay:
    """Play a run of one iteration with a supervised arm."""
    settings = {"retain_dataset": other_tasks(), "baseline": "sft", "num_iterations": 1, **settings}
    return build(model, run_dir, **settings)


@pytest.fixture(scope="module")
def without(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run without a retention set."""
    folder = tmp_path_factory.mktemp("a run") / "run"
    session(llama_folder, folder, retain_dataset=None).run()
    return folder


@pytest.fixture(scope="module")
def played(llama_folder: Path, without: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, to which the retention set was added after it had finished."""
    folder = tmp_path_factory.mktemp("retention") / "run"
    shutil.copytree(without, folder, symlinks=True)
    session(llama_folder, folder).run()
    return folder


def figures(run_dir: Path, stage: str) -> dict[str, float]:
    return json.loads((run_dir / stage / "retention" / "metrics.json").read_text(encoding="utf-8"))


def test_every_stage_is_measured(played: Path, without: Path, llama_folder: Path) -> None:
    """This includes a finished run; the NLL and its change from the start are computed by hand, from the models alone."""
    new = steps(played)[len(steps(without)) :]
    assert new == [("prepare", "retention"), *(("retention", stage) for stage in STAGES)]
    stored, nll = load_from_disk(str(played / "data" / "retention")), {}
    assert stored["prompt"][:] == other_tasks()["prompt"][:]
    for stage in STAGES:
        model = AutoModelForCausalLM.from_pretrained(
            llama_folder if stage == "start" else played / stage / "model"
        ).eval()
        real = [logp(model, row["prompt_ids"], row["real_ids"]) for row in stored]
        nll[stage] = -sum(real) / sum(len(row["real_ids"]) for row in stored)
        found = figures(played, stage)
        assert (found["nll"], found["prompts"]) == (pytest.approx(nll[stage], rel=1e-4), KEPT)
        assert found.get("nll_change", 0.0) == pytest.approx(nll[stage] - nll["start"], abs=1e-4)
    assert abs(nll["iteration-0"] - nll["start"]) > 1e-3, "the test needs a model that has changed"
    session(llama_folder, played).run()
    assert steps(played)[len(steps(without)) :] == new


def test_no_decision_depends_on_it(played: Path, without: Path, llama_folder: Path) -> None:
    play = session(llama_folder).state.play
    verdicts = [judge(read_record(RunDirectory(folder)), play, 0) for folder in (played, without)]
    assert verdicts[0] == verdicts[1]
    with refused(RecipeError, "`metric_for_best_iteration`", "'retention/nll'"):
        session(llama_folder, metric_for_best_iteration="retention/nll")._check_playable()


def test_it_is_shown_with_the_difference_from_the_start(played: Path, without: Path) -> None:
    """It appears in the report, its remarks, and the table of figures."""
    record = read_record(RunDirectory(played))
    page = gather(RunDirectory(played))
    assert [len(row.cells) for row in page["retention"].rows] == [2, 2, 2]
    assert gather(RunDirectory(without))["retention"] is None
    value = f"{figures(played, 'iteration-0')['nll']:.3f}"
    assert record.best == "iteration-0"
    assert any(names(remark, KEPT, value) for remark in page["remarks"])
    assert "Retention" in (played / "report.html").read_text(encoding="utf-8")
    table = (played / "table.txt").read_text(encoding="utf-8")
    assert value in table
    assert f"{figures(played, 'iteration-0')['nll_change']:+.3f}" in table


def test_a_kill_changes_nothing(
    played: Path, without: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends before the second model's figures are recorded; damaged results are measured again."""
    folder, on_rows, calls = tmp_path / "a run", retention._on_rows, []
    shutil.copytree(without, folder, symlinks=True)

    def killed(*arguments: Any) -> Any:
        calls.append(on_rows(*arguments))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(retention, "_on_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        session(llama_folder, folder).run()
    monkeypatch.undo()
    (folder / "start" / "retention" / "values.json").write_text("{}", encoding="utf-8")
    session(llama_folder, folder).run()
    assert ("lost", "start") in steps(folder)
    for stage in STAGES:
        assert contents(folder / stage / "retention") == contents(played / stage / "retention")


def test_other_rows_are_refused_once_a_model_was_measured(played: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    shutil.copytree(played, folder, symlinks=True)
    digest = entry("prepare", "retention", folder)["dataset"]
    with refused(DataError, "`retain_name`", digest, "start"):
        session(llama_folder, folder, retain_dataset=other_tasks(KEPT - 1)).run()


def test_answers_are_scored_with_a_scorer_of_their_own(llama_folder: Path) -> None:
    """The run's own scorer is not used: the start's answers to the prompts are scored by a pattern."""
    one = session(llama_folder, retain_scorer=["regex:e"], scorer=lambda prompt, real, generated: 7.0)
    one.run_phase("start", 0)
    found = figures(Path("run"), "start")
    lines = Path("run/start/retention/sampled")
    assert lines.is_dir()
    values = json.loads(Path("run/start/retention/values.json").read_text(encoding="utf-8"))["score"]
    assert set(values.values()) <= {0.0, 1.0}
    assert found["score"] == pytest.approx(sum(values.values()) / KEPT)
    assert not Path("run/start/retention/samples.jsonl").exists()


def test_a_task_of_the_harness_is_measured_at_every_stage(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most `retain_max` questions are asked, and the change from the start is reported; an unknown task ends the
    run at its start.
    """
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness, an optional extra, is not installed")
    from spin_trl.evaluation import harness

    folder = harness_tasks.write(tmp_path / "tasks")
    monkeypatch.setattr(
        harness, "tasks", lambda include_path=None: harness._Tasks(include_path=str(folder), include_defaults=False)
    )
    with refused(RecipeError, "`retain_tasks`", "pick_color", "pick_colour"):
        session(llama_folder, "wrong", retain_tasks=["pick_color"], retain_dataset=None).run_phase("start", 0)
    session(llama_folder, retain_tasks=["pick_colour"], retain_dataset=None, retain_max=12, baseline=None).run()
    start, after = (figures(Path("run"), stage) for stage in STAGES[:2])
    for found, stage in ((start, "start"), (after, "iteration-0")):
        stored = json.loads(Path("run", stage, "lm-eval", "pick_colour-limit-12.json").read_text(encoding="utf-8"))
        assert found["pick_colour/acc"] == stored["results"]["pick_colour"]["acc,none"]
        assert stored["n-samples"]["pick_colour"]["effective"] == 12
    change, error = (
        after["pick_colour/acc"] - start["pick_colour/acc"],
        (start["pick_colour/acc_se"] ** 2 + after["pick_colour/acc_se"] ** 2) ** 0.5,
    )
    assert after["pick_colour/acc_change"] == pytest.approx(change)
    assert after["pick_colour/acc_change_high"] == pytest.approx(change + 1.959964 * error)
    assert len(gather(RunDirectory("run"))["retention"].rows) == 2
