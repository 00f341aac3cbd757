"""Training prompts that a model answered ahead are taken if it is the opponent, and are otherwise answered again."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from messages import names
from runs import answers, build, contents, entry
from spin_trl.errors import LaunchError
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.seconds import add_seconds
from spin_trl.generation.store import GenerationStore
from spin_trl.play import gate, phases
from spin_trl.play.ahead import AheadSeconds, forget_ahead, iteration_ahead, take_ahead
from spin_trl.play.answer_together import answer_together
from spin_trl.play.gate import Verdict
from spin_trl.play.loop import SelfPlay
from spin_trl.run.journal import Step
from spin_trl.run.run import PLAYS_ON
from spin_trl.run.stage import Stage


def session(model: Path, **settings: Any) -> SelfPlay:
    known = {
        "generation_continuous": True,
        "generate_ahead": "always",
        "on_regression": "continue",
        "degeneration_stop": {},
    }
    return build(model, **{**known, **settings})


def answered(model: Path, **settings: Any) -> SelfPlay:
    """Return a run whose start has answered ahead, as if it had been interrupted before its evaluation was recorded."""
    found = session(model, **settings)
    found.run(until="generate")
    lines = Path("run/journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("run/journal.jsonl").write_text("".join(line for line in lines if '"evaluate"' not in line), encoding="utf-8")
    found = session(model, **settings)
    found.state.plays_on = True
    found.state.directory.own("start")
    answer_together(found.state, Stage("start"))
    return found


AHEAD = Path("run/start/ahead")


def test_nothing_is_answered_ahead_for_other_machines_or_phases_by_hand(llama_folder: Path, starts: list[str]) -> None:
    session(llama_folder).run(until="generate")
    assert starts == ["start"]
    assert not AHEAD.exists()
    session(llama_folder).run_phase("generate", 0)
    session(llama_folder).run_phase("train", 0)
    session(llama_folder).run_phase("evaluate", 0)
    assert starts == ["start", "start", "iteration-0"]
    assert not Path("run/iteration-0/ahead").exists()


@pytest.mark.parametrize(
    ("setting", "of_start", "of_iteration"), [("start", 0, None), ("always", 0, 1), ("never", None, None)]
)
def test_who_answers_ahead(setting: str, of_start: int | None, of_iteration: int | None, llama_folder: Path) -> None:
    run = session(llama_folder, generate_ahead=setting, num_iterations=3).state
    assert iteration_ahead(run, Stage("start")) is None, "no loop plays on"
    run.plays_on = True
    assert iteration_ahead(run, Stage("start")) == of_start
    assert iteration_ahead(run, Stage("iteration-0")) == of_iteration
    for other in ("base", "iteration-2", "baseline/sft/iteration-0", "dpo/start"):
        assert iteration_ahead(run, Stage(other)) is None


@pytest.mark.parametrize(
    ("settings", "is_known"),
    [
        ({"scorer": "json", "metric_for_best_iteration": "score"}, True),
        ({"scorer": "json:dumps", "metric_for_best_iteration": "score/typo"}, False),
        ({"scorer": "json:dumps", "metric_for_best_iteration": "nll"}, True),
    ],
)
def test_a_metric_that_only_a_measurement_shows_is_checked_first(
    settings: dict[str, Any], is_known: bool, llama_folder: Path
) -> None:
    """Otherwise a run could be refused whose training prompts have been answered."""
    run = session(llama_folder, **settings).state
    run.plays_on = True
    assert (iteration_ahead(run, Stage("start")) == 0) == is_known


def test_what_has_begun_or_was_decided_is_not_answered_ahead(llama_folder: Path) -> None:
    run = session(llama_folder, num_iterations=3).state
    run.plays_on = True
    run.directory.claim("continue")
    run.directory.own("iteration-1")
    run.directory.generations("iteration-1").mkdir(parents=True)
    assert iteration_ahead(run, Stage("iteration-0")) is None
    run.directory.own("journal.jsonl")
    run.journal.append(Step.GATE, Stage("iteration-1"), decision="continued", opponent="iteration-1", lr_scale=1.0)
    assert iteration_ahead(run, Stage("iteration-1")) is None


def test_the_answers_wait_until_the_iteration_begins(llama_folder: Path, starts: list[str]) -> None:
    """They are taken as they are; the manifest says what has been decided since."""
    run = answered(llama_folder).state
    before = contents(AHEAD / "generations", ignore=("generations.json",))
    assert not run.has_begun(0)
    assert len(before) > 1
    (AHEAD / "seconds.txt").write_text("12.5\n", encoding="utf-8")
    assert take_ahead(run, 0) == AheadSeconds(used=12.5)
    generations = run.directory.generations("iteration-0")
    assert contents(generations, ignore=("generations.json",)) == before
    assert GenerationStore(generations).manifest()["lr_scale"] == 1.0
    assert take_ahead(run, 0) == AheadSeconds(used=12.5), "also after an interruption"
    forget_ahead(run, 0)
    assert not AHEAD.exists()
    assert take_ahead(run, 0) == AheadSeconds()


def test_the_learning_rate_of_a_run_that_fell_back_before_is_noted(llama_folder: Path, starts: list[str]) -> None:
    run = answered(llama_folder).state
    run.journal.append(Step.GATE, Stage("iteration-0"), decision="fell back", opponent="start", lr_scale=0.5)
    manifest = json.loads((AHEAD / "generations" / "generations.json").read_text(encoding="utf-8"))
    (AHEAD / "generations" / "generations.json").write_text(json.dumps(manifest | {"iteration": 1}), encoding="utf-8")
    run.directory.own("iteration-1")
    take_ahead(run, 1)
    assert GenerationStore(run.directory.generations("iteration-1")).manifest()["lr_scale"] == 0.5


def test_the_answers_of_a_model_that_is_fallen_back_from_are_not_used(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start answers again, for another iteration. Their seconds count as its generation's, but not as its work."""

    def judged(*_: Any, **__: Any) -> Verdict:
        if (ahead := Path("run/iteration-0/ahead")).exists():
            add_seconds(ahead, 1000.0)
        return Verdict("fell back", Stage("start"), Stage("start"), 0.5, "worse")

    monkeypatch.setattr(gate, "judge", judged)
    session(llama_folder).run()
    assert starts == ["start", "iteration-0", "start", "iteration-1"]
    assert not Path("run/iteration-0/ahead").exists()
    manifest = GenerationStore("run/iteration-1/generations").manifest()
    assert (manifest["opponent"], manifest["lr_scale"]) == ("start", 0.5)
    assert entry("generate", "iteration-1")["seconds"] > 1000 > entry("generate", "iteration-1")["work_seconds"]


def test_answers_that_are_copied_from_another_disk_are_whole_or_not_there(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = answered(llama_folder).state
    before = contents(AHEAD / "generations", ignore=("generations.json",))
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path == AHEAD / "generations":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    def interrupted(source: Path, target: Path) -> None:
        target.mkdir()
        shutil.copy(source / "generations.json", target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", renamed)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take_ahead(run, 0)
    generations = run.directory.generations("iteration-0")
    assert not generations.exists()
    take_ahead(run, 0)
    assert contents(generations, ignore=("generations.json",)) == before
    assert GenerationStore(generations).is_complete()


@pytest.mark.parametrize("damage", ["manifest", "another iteration", "another temperature"])
def test_answers_that_are_not_those_that_are_needed_are_given_again(
    damage: str, llama_folder: Path, starts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = answered(llama_folder).state
    manifest = AHEAD / "generations" / "generations.json"
    of_another = manifest.read_text(encoding="utf-8").replace('"iteration": 0', '"iteration": 1')
    if damage == "another temperature":
        run.play.per_iteration = {"temperature": [0.5, 0.5]}
    else:
        manifest.write_text("{" if damage == "manifest" else of_another, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert take_ahead(run, 0) == AheadSeconds()
    reason = {
        "manifest": "generations.json",
        "another iteration": "iteration is 1, not 0",
        "another temperature": "temperature is 1.0, not 0.5",
    }
    assert names(caplog.text, "start/ahead", "answered again", reason[damage])
    assert not AHEAD.exists()


def test_a_damaged_shard_is_generated_again_and_the_others_are_kept(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same prompts get the same answers."""
    answered(llama_folder)
    expected, shard = answers("run", "start", "ahead/generations"), AHEAD / "generations" / "shard-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    asked, answer = [], TransformersEngine.answer

    def counted(engine: TransformersEngine, prompts: Any, *of: Any) -> Any:
        asked.extend(prompts)
        return answer(engine, prompts, *of)

    monkeypatch.setattr(TransformersEngine, "answer", counted)
    run = session(llama_folder, num_iterations=1)
    run.run_phase("generate", 0)
    assert answers("run", "iteration-0") == expected
    assert len(asked) == 1


def test_an_interrupted_start_asks_for_the_rest(
    llama_folder: Path, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered ahead is final; a second start gives the others."""
    write, left = GenerationStore.write_shard, [5]

    def interrupted(store: GenerationStore, *of: Any) -> None:
        if store.folder.parent.name == "ahead":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        write(store, *of)

    with monkeypatch.context() as patch:
        patch.setattr(GenerationStore, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session(llama_folder, num_iterations=1).run()
    before = contents(AHEAD / "generations")
    assert sum(name.startswith("shard-") for name in before) == 5
    asked: list[int] = []
    answer = TransformersEngine.answer
    monkeypatch.setattr(
        TransformersEngine,
        "answer",
        lambda self, prompts, *of: asked.append(len(prompts)) or answer(self, prompts, *of),
    )
    session(llama_folder, num_iterations=1).run()
    assert starts == ["start", "start", "iteration-0"]
    assert len(asked) == 7 + 3, "seven training prompts of twelve, and the held-out prompts of the iteration"
    after = contents("run/iteration-0/generations")
    assert {name: after[name] for name in before if name.startswith("shard-")}.items() <= before.items()
    assert len(answers("run", "iteration-0")) == 12


@pytest.mark.parametrize("until", [None, "generate"])
def test_a_launched_phase_learns_whether_the_loop_plays_on(
    until: str | None, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do the processes of the launch, which are started with the same environment."""
    environments: list[dict[str, str]] = []

    class Launch:
        stdout = None

        def __init__(self, *_: Any, **options: Any) -> None:
            environments.append(options["env"])

        def wait(self) -> int:
            return 1

    monkeypatch.setattr(phases.subprocess, "Popen", Launch)
    with pytest.raises(LaunchError):
        session(llama_folder, accelerate_config="ddp", launch=phases.by_accelerate).run(until=until)
    [environment] = environments
    assert (PLAYS_ON in environment) == (until is None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert session(llama_folder).state.plays_on == (until is None)


def test_a_model_that_is_lost_takes_its_answers_with_it(llama_folder: Path, starts: list[str]) -> None:
    session(llama_folder, num_iterations=1).run()
    ahead = Path("run/iteration-0/ahead/generations")
    ahead.mkdir(parents=True)
    for file in Path("run/iteration-0/model").glob("*.safetensors"):
        file.write_bytes(b"damaged")
    session(llama_folder, num_iterations=1).run()
    assert not ahead.parent.exists()
