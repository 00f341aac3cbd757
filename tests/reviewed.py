"""Made-up runs whose answers people have compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_up import PROMPTS, record, sample, stage, write_run
from spin_trl.report.review.assignment import Assignment, read_assignment
from spin_trl.report.review.page import render_page
from spin_trl.report.review.pairs import choose, draw_sides, lengths_of, others_of, prompts_of, sampled_answers
from spin_trl.run.directory import RunDirectory
from spin_trl.run.stage import START, Stage

WORDS = {"start": "short", "iteration-0": "longer", "iteration-1": "longest"}


def answer(name: str, number: int) -> str:
    """Return a stage's answer to a prompt, which does not name the stage; every tenth is the same for all stages."""
    return f"Answer {number}." if number % 10 == 0 else f"Answer {number}, {WORDS[name]}."


def answered_run(path: Path, **settings: Any) -> RunDirectory:
    """Write a run of two iterations with answers of all stages, and no page."""
    samples = {name: [sample(number, generated=answer(name, number)) for number in range(PROMPTS)] for name in WORDS}
    return RunDirectory(write_run(path, record(*(stage(name, range(9)) for name in WORDS)), samples, **settings))


def with_page(
    directory: RunDirectory, count: int = 40, against: Sequence[str] = ("previous",), iteration: int = 1
) -> Assignment:
    """Write the review page of an iteration, and return the assignment of its answers."""
    one = Stage.of(iteration)
    keys = choose(lengths_of(directory, one), count * len(against), seed=0)
    stages = others_of(against, Stage.of(iteration - 1), START)
    others = {name: {} if of is None else sampled_answers(directory, of, keys) for name, of in stages.items()}
    ours = sampled_answers(directory, one, keys)
    found = prompts_of(directory, one, keys)
    prompts = {key: found[key] for key in keys}
    assignment, data = draw_sides(directory, one, prompts, ours, others, against)
    assignment.write(directory.assignment(one))
    directory.review_page(one).write_text(render_page(data), encoding="utf-8")
    found = read_assignment(directory.assignment(one))
    assert found == assignment
    return assignment


def votes_file(
    path: Path, assignment: Assignment, choices: Mapping[str, str], reviewer: str = "Ann", **changes: Any
) -> Path:
    """Write a file of votes as the page saves it, from choices by the identifiers of pairs."""
    votes = [{"pair": pair, "choice": choice, "reasons": [], "note": ""} for pair, choice in choices.items()]
    content = {
        "format": "spin_trl review votes",
        "version": 1,
        "run": assignment.run,
        "page": assignment.page,
        "reviewer": reviewer,
        "votes": votes,
        **changes,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def choices_for(assignment: Assignment, won: int, lost: int, ties: int = 0) -> dict[str, str]:
    """Return choices on the first pairs: the model's own answer so often, the other one so often, and both good."""
    other = {"left": "right", "right": "left"}
    mine, theirs = assignment.pairs[:won], assignment.pairs[won : won + lost]
    found = {pair.id: pair.side for pair in mine} | {pair.id: other[pair.side] for pair in theirs}
    return found | {pair.id: "both_good" for pair in assignment.pairs[won + lost : won + lost + ties]}


def entry_of(stage: str, results: Sequence[str | None], against: str = "previous", reviewer: str = "Ann") -> dict:
    """Return a journal entry with votes, by their results."""
    votes = [
        {"pair": f"pair-{number}", "against": against, "choice": "left", "result": result, "reasons": [], "note": ""}
        for number, result in enumerate(results)
    ]
    return {"phase": "review", "stage": stage, "time": 2e9, "reviewer": reviewer, "taken_by": "file", "votes": votes}
