"""A run is scored by its judge, and says so."""

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from completion_server import serving
from judge_server import JudgeServer, all_at, fair
from messages import logged, names, refused
from runs import build, entry, steps
from spin_trl import SelfPlayConfig
from spin_trl.errors import RecipeError
from spin_trl.play.console import intention
from spin_trl.play.judged import judge_in_words, judge_of, questions_of, whole_permission
from spin_trl.report.record import read_record
from spin_trl.report.tables import facts
from spin_trl.run.contents import is_kept_of_run, is_top_entry
from spin_trl.run.directory import RunDirectory
from spin_trl.run.settings import frozen_settings

SECRET = "sk-judge-hunter2"


def drawn(answer: str) -> int:
    """Return a score from 1 to 3, or 0 for an answer that gets no verdict."""
    return zlib.crc32(answer.encode()) % 4


def by_draw(prompt: str, answers: Sequence[str]) -> Any:
    """Give an answer the score that is drawn for it."""
    if prompt.startswith("What is the capital"):
        return fair(prompt, answers)
    score = drawn(answers[0])
    return all_at(score) if score else "I can't tell."


def test_all_scorers_of_a_run_share_its_judge(llama_folder: Path) -> None:
    """It is asked for nothing until it is needed, and its address is checked when the run is built."""
    judged = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m"}
    play = SelfPlayConfig(scorer="judge", retain_scorer="judge", **judged)
    permission = whole_permission(play, RunDirectory("run"))
    assert permission.judge() is permission.judge()
    with refused(RecipeError, "`judge_url`"):
        build(llama_folder, scorer="judge", judge_url="ftp://a", judge_model="m").run()
    assert not Path("run").exists()


def test_replies_are_a_file_of_the_run() -> None:
    directory = RunDirectory("run")
    directory.claim("continue")
    judge = judge_of(SelfPlayConfig(judge_url="https://a", judge_model="m"), directory)
    assert judge.place() == directory.path / "judge.jsonl"
    assert is_top_entry("judge.jsonl")
    assert is_kept_of_run("judge.jsonl", judge.place())


@pytest.mark.slow
def test_a_run_is_scored_by_its_judge_and_resumed_without_asking_again(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", SECRET)
    settings: dict[str, Any] = {
        "num_iterations": 1, "held_out_fraction": 0.5, "scorer": ["judge", "exact_match"], "judge_model": "wise",
        "metric_for_best_iteration": "score/judge",
    }  # fmt: skip
    with serving(JudgeServer(judgement=by_draw, delay=0.02)) as server:
        run = build(llama_folder, judge_url=server.v1, **settings)
        run.run()
        assert server.most > 1
        asked = len(server.bodies)
        host = f"127.0.0.1:{server.port}"
        held_out = len(run.state.rows(held_out=True))
        assert questions_of(run.state) == 2 * held_out
        [line] = [line for line in intention(run.state, ["evaluate"], 1, is_text=False) if names(line, "wise", host)]
        assert "`held_out_max`" not in line
        run.state.play.judge_max_requests = 2 * held_out - 1
        assert names(judge_in_words(run.state), f"{2 * held_out}", "`judge_max_requests`", "`held_out_max`")
        build(llama_folder, judge_url=server.v1, **settings).run()
        (Path("run") / "start" / "metrics.json").unlink()  # so that the start is evaluated again
        build(llama_folder, judge_url=server.v1, judge_max_requests=1, **settings).run()
        assert steps().count(("evaluate", "start")) == 2
        assert len(server.bodies) == asked
    logged(caplog, "wise", host)
    for stage in ("start", "iteration-0"):
        lines = (Path("run") / stage / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        all_drawn = [drawn(json.loads(line)["generated"]) for line in lines]
        scored = [(score - 1) / 4 for score in all_drawn if score]
        found = json.loads((Path("run") / stage / "metrics.json").read_text(encoding="utf-8"))
        assert 0 < len(scored) < len(all_drawn)
        assert math.isclose(found["score/judge"], sum(scored) / len(scored))
        assert math.isclose(found["score/judge.clear"], found["score/judge"])
        assert "score/exact_match" in found
    noted = entry("evaluate", "iteration-0")
    assert noted["unscored"] == {"score/judge": all_drawn.count(0)}
    assert noted["judge"]["spent"]["requests"] == asked
    record = read_record(RunDirectory("run"))
    assert names(facts(record)["Judge"], "wise", host, asked)
    assert names(facts(record)["Judge's faults"], "iteration-0", len(scored), len(all_drawn))
    assert "judge" in Path("run/table.txt").read_text(encoding="utf-8")
    assert frozen_settings(RunDirectory("run"))["metric_for_best_iteration"] == "score/judge"
    files = [path for path in Path("run").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in caplog.text
