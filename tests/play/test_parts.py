"""Several machines generate an iteration's answers, and the run goes on as if it had generated them itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from messages import refused
from runs import answers, build, entry, steps, weights
from spin_trl.errors import GenerationsError, RecipeError, RunDirectoryError
from spin_trl.generation.parts import GenerationPart
from spin_trl.play import parts as acts
from spin_trl.run import lock
from spin_trl.run.journal import Step


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "CONFIRM_SECONDS", 0.0)


@pytest.mark.slow
def test_a_run_in_parts_is_the_run(llama_folder: Path) -> None:
    """Answers, models and figures have the same bytes; two iterations are shared among two and three machines."""
    build(llama_folder, "whole").run()
    for iteration, count in ((0, 2), (1, 3)):
        result = build(llama_folder, "shared").run(until="generate")
        assert result.stopped is None
        assert steps("shared")[-1][1] == ("start" if iteration == 0 else "iteration-0")
        for number in range(count, 0, -1):
            build(llama_folder, "shared").generate_part(iteration, GenerationPart(number, count))
        build(llama_folder, "shared").merge_parts(iteration)
        assert answers("shared", f"iteration-{iteration}") == answers("whole", f"iteration-{iteration}")
        assert not Path("shared", f"iteration-{iteration}", "parts").exists()
    build(llama_folder, "shared").run()
    assert steps("shared") == steps("whole")
    for stage in ("iteration-0", "iteration-1"):
        assert weights(f"shared/{stage}/model") == weights(f"whole/{stage}/model")
        assert Path("shared", stage, "metrics.json").read_bytes() == Path("whole", stage, "metrics.json").read_bytes()


@pytest.fixture(scope="module")
def waiting(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play a run up to its first generate phase."""
    folder = tmp_path_factory.mktemp("waiting") / "run"
    build(llama_folder, folder).run(until="generate")
    return folder


def test_until_generate_ends_before_and_names_the_commands(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = build(llama_folder).run(until="generate")
    assert result.best_stage == "start"
    assert not Path("run", "iteration-0", "generations").exists()
    printed = " ".join(capsys.readouterr().out.split())
    for command in (
        "spin-trl generate run --iteration 0 --shard I/N",
        "spin-trl merge run --iteration 0",
        "spin-trl run run",
    ):
        assert command in printed


def test_a_run_without_held_out_prompts_ends_there_too(llama_folder: Path) -> None:
    result = build(llama_folder, held_out_fraction=0.0).run(until="generate")
    assert (result.best_stage, result.best_model) == ("start", str(llama_folder))


def test_parts_write_nothing_but_their_folders_and_cost_their_time(waiting: Path, llama_folder: Path) -> None:
    def outside() -> dict[str, bytes]:
        files = (path for path in waiting.rglob("*") if path.is_file() and "parts" not in path.parts)
        return {str(path): path.read_bytes() for path in files}

    before = outside()
    for number in (1, 2):
        build(llama_folder, waiting).generate_part(0, GenerationPart(number, 2))
    assert outside() == before
    seconds = [
        float((waiting / "iteration-0" / "parts" / name / "seconds.txt").read_text(encoding="utf-8"))
        for name in ("1-of-2", "2-of-2")
    ]
    build(llama_folder, waiting).generate_part(0, GenerationPart(1, 2))  # already complete: no model is loaded
    build(llama_folder, waiting).merge_parts(0)
    assert entry("generate", "iteration-0", waiting)["work_seconds"] == pytest.approx(sum(seconds), abs=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spin_trl.play.answering.at_hand.load_policy", None)
        build(llama_folder, waiting).generate_part(0, GenerationPart(2, 2))
        build(llama_folder, waiting).merge_parts(0)


def test_a_run_that_has_not_got_this_far_says_how_to_begin(llama_folder: Path, waiting: Path) -> None:
    with refused(RunDirectoryError, "spin-trl run run --until generate"):
        build(llama_folder).generate_part(0, GenerationPart(1, 2))
    with refused(RunDirectoryError, "train", "iteration-0"):
        build(llama_folder, waiting).generate_part(1, GenerationPart(1, 2))


def test_another_phase_to_end_before_is_refused(llama_folder: Path) -> None:
    with refused(RecipeError, "`until`", "'train'"):
        build(llama_folder).run(until="train")
    assert not Path("run").exists()


def test_missing_parts_are_named_and_nothing_is_recorded(llama_folder: Path) -> None:
    session = build(llama_folder)
    session.run(until="generate")
    with refused(RunDirectoryError, "run", "--shard 1/2"):
        build(llama_folder).merge_parts(0)
    build(llama_folder).generate_part(0, GenerationPart(2, 3))
    parts = session.state.directory.parts("iteration-0")
    for name in ("1-of-3", "a-of-b"):  # a task that was killed before it wrote anything, and a folder of somebody else
        (parts / name).mkdir()
    with refused(GenerationsError, "1/3, 3/3"):
        build(llama_folder).merge_parts(0)
    assert session.state.done(Step.GENERATE, "iteration-0") is None


def test_the_second_of_two_tasks_with_one_part_is_refused(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(llama_folder).run(until="generate")
    inside, ends = threading.Event(), threading.Event()

    def wait(*_: object, **__: object) -> float:
        inside.set()
        assert ends.wait(60)
        return 0.0

    monkeypatch.setattr(acts, "answer_into", wait)
    first, second = build(llama_folder).state, build(llama_folder).state
    thread = threading.Thread(target=acts.generate_part, args=(first, 0, GenerationPart(1, 2)))
    thread.start()
    try:
        assert inside.wait(60)
        with refused(RunDirectoryError, "1-of-2"):
            acts.generate_part(second, 0, GenerationPart(1, 2))
    finally:
        ends.set()
        thread.join()
