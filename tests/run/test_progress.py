"""The progress of a phase and the time left follow from rates and earlier durations of phases."""

from pathlib import Path
from typing import Any

import pytest

from runs import build
from spin_trl.run.progress import Progress, seconds_left_of_phase, seconds_left_of_run

PHASES = ("generate", "train", "evaluate", "baseline")


def test_the_rate_counts_what_was_done_here() -> None:
    """40 of 100 were done before an interruption; 20 more in 10 seconds are 2 per second, so the last 40 take 20 seconds."""
    progress = Progress()
    progress.begin("answers", 40, 100)
    progress.started = 1000.0
    progress.report(60, tokens=500)
    assert progress.rate(1010.0) == 2.0
    assert progress.seconds_left(1010.0) == 20.0
    assert progress.tokens == 500


def test_nobody_knows_before_the_first_is_done() -> None:
    progress = Progress()
    assert progress.seconds_left(progress.started + 5) is None
    progress.begin("steps", 7, 10)
    assert progress.rate(progress.started + 5) is None


def test_a_generation_begins_a_count_of_its_own() -> None:
    """For sampled and then greedy answers, the second count begins at its first call."""
    progress = Progress()
    for done, tokens in ((0, 0), (8, 90), (16, 150)):
        progress.answered(done, 16, tokens)
    assert (progress.what, progress.done, progress.total, progress.tokens) == ("answers", 16, 16, 150)
    progress.answered(4, 16, 0)
    assert (progress.done, progress.first, progress.tokens) == (4, 4, 0)


def test_another_process_can_read_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is shared on the machine; an incomplete or missing file leaves the known progress unchanged."""
    told, reader = Progress(file=tmp_path / "progress.json"), Progress()
    reader.read(tmp_path / "progress.json")
    assert reader.total == 0
    told.part = "plain SFT"
    told.begin("steps", 3, 10)
    reader.read(tmp_path / "progress.json")
    assert (reader.what, reader.done, reader.total, reader.started) == ("steps", 3, 10, told.started)
    assert reader.part == "plain SFT"
    told._written -= 1
    told.report(5)
    reader.read(tmp_path / "progress.json")
    assert (reader.done, reader.first, reader.rate(told.started + 4)) == (5, 3, 0.5)
    told.report(6)  # too soon to be written again
    reader.read(tmp_path / "progress.json")
    assert reader.done == 5
    (tmp_path / "progress.json").write_text('{"what": "st', encoding="utf-8")
    reader.read(tmp_path / "progress.json")
    assert reader.done == 5


def test_a_full_disk_does_not_end_a_phase_that_is_watched(tmp_path: Path) -> None:
    Progress(file=tmp_path / "no" / "such" / "folder.json").begin("steps", 0, 3)


def line(phase: str, stage: str, seconds: float) -> dict[str, Any]:
    return {"phase": phase, "stage": stage, "seconds": seconds}


ENTRIES = [
    {"phase": "prepare", "stage": "data"},
    line("train", "start", 999.0),
    line("evaluate", "start", 2.0),
    line("generate", "iteration-0", 10.0),
    line("train", "iteration-0", 20.0),
    line("evaluate", "iteration-0", 3.0),
    {"phase": "gate", "stage": "iteration-0"},
    line("train", "baseline/sft/iteration-0", 5.0),
    line("evaluate", "baseline/sft/iteration-0", 1.0),
    line("train", "baseline/sft-smoothing-0.1/iteration-0", 6.0),
    line("evaluate", "baseline/sft-smoothing-0.1/iteration-0", 2.0),
    line("lm-eval", "iteration-0", 7200.0),
    line("lm-eval", "baseline/sft/iteration-0", 7200.0),
]
"""An iteration of 10 + 20 + 3 seconds, 14 for two baseline arms, and benchmarks run on request."""


def test_the_rest_of_a_run_takes_as_long_as_before() -> None:
    """In the training of iteration 1 of 3, with 15 seconds left, 3 + 14 and a whole iteration of 49 remain."""
    entries = [*ENTRIES, line("generate", "iteration-1", 12.0)]
    # Generation took 12 the last time.
    assert seconds_left_of_run(entries, PHASES, "train", 1, 3, 15.0) == 15 + 3 + 14 + (12 + 20 + 3 + 14)
    assert seconds_left_of_run(entries, PHASES, "train", 1, 2, 15.0) == 15 + 3 + 14
    assert seconds_left_of_run(entries, PHASES, "train", 1, 2, None) == 20 + 3 + 14


def test_an_arm_that_is_done_does_not_stand_for_its_whole_phase() -> None:
    entries = [*ENTRIES, line("train", "baseline/sft/iteration-1", 500.0)]
    assert seconds_left_of_run(entries, PHASES, "baseline", 1, 2, None) == 14


def test_a_phase_that_nobody_has_seen_takes_nobody_knows_how_long() -> None:
    assert seconds_left_of_run(ENTRIES[:5], PHASES, "train", 0, 1, 5.0) is None
    assert seconds_left_of_run(ENTRIES[:6], PHASES[:3], "evaluate", 0, 1, 5.0) == 5.0


def test_the_start_has_been_evaluated_before_the_first_iteration() -> None:
    """5 seconds of training are left, and an evaluation, which took 2 seconds for the start."""
    assert seconds_left_of_run(ENTRIES[:5], PHASES[:3], "train", 0, 1, 5.0) == 7.0


@pytest.mark.parametrize(
    ("phase", "iteration", "elapsed", "of_count", "left"),
    [
        ("train", 1, 4.0, 9.0, 9.0),  # its count is the whole phase
        ("train", 1, 4.0, None, 16.0),  # as last time, when it took 20 seconds
        ("evaluate", 1, 1.0, 0.5, 2.0),  # other counts follow this one: as last time, when it took 3 seconds
        ("evaluate", 1, 1.0, 60.0, 60.0),
        ("evaluate", 0, 0.5, 0.2, 1.5),  # like the start's
        ("evaluate", 1, 9.0, None, 0.0),
        ("baseline", 1, 3.0, 1.0, 11.0),  # two arms took 14 seconds
        ("baseline", 0, 3.0, 1.0, 1.0),
        ("generate", 0, 3.0, None, None),
    ],
)
def test_a_phase_takes_as_long_as_last_time_if_its_count_does_not_tell(
    phase: str, iteration: int, elapsed: float, of_count: float | None, left: float | None
) -> None:
    entries = ENTRIES if iteration else ENTRIES[:5]
    assert seconds_left_of_phase(entries, phase, iteration, elapsed, of_count) == left


def test_arms_that_are_done_are_not_left() -> None:
    """One of two arms took 6 of the 14 seconds before an interruption."""
    entries = [
        *ENTRIES,
        line("train", "baseline/sft/iteration-1", 5.0),
        line("evaluate", "baseline/sft/iteration-1", 1.0),
    ]
    assert seconds_left_of_phase(entries, "baseline", 1, 3.0, None) == 5.0


def test_phases_say_how_far_they_are(llama_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation counts answers, training steps, and evaluation what it measures and scores; at the end, all are done."""
    seen: list[tuple[str, int, int]] = []
    original = Progress.report

    def report(self: Progress, done: int, tokens: int = 0) -> None:
        original(self, done, tokens)
        seen.append((self.what, self.done, self.total))

    monkeypatch.setattr(Progress, "report", report)
    build(llama_folder, num_iterations=1, baseline="sft", scorer="exact_match", evaluate_greedy=True).run()
    # 3 prompts are held out and 12 trained on. Real responses and own answers are measured, and the opponent's, if any.
    # Sampled and greedy answers are scored.
    answers = ["3 answers", "3 greedy answers"]
    start = [*answers, "6 responses measured", "6 answers scored"]
    iteration = ["12 answers", "3 steps", *answers, "9 responses measured", "6 answers scored"]
    finished = [f"{done} {what}" for what, done, total in seen if done == total]
    assert finished == [*start, *iteration, "3 steps", *start]
