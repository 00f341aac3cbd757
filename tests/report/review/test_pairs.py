"""The prompts of a review are random, of all lengths, and the same for all iterations; sides tell nothing."""

from collections import Counter
from pathlib import Path

from made_up import record, sample, stage, write_run
from messages import refused
from reviewed import answered_run, with_page
from spin_trl.errors import RunDirectoryError
from spin_trl.report.review.assignment import AssignedPair, Assignment
from spin_trl.report.review.pairs import (
    LONGEST,
    STRATA,
    choose,
    draw_sides,
    lengths_of,
    others_of,
    page_data,
    prompts_of,
    sampled_answers,
)
from spin_trl.report.review.stored import stored_data
from spin_trl.run.directory import RunDirectory
from spin_trl.run.stage import START, Stage

ONE = Stage.of(1)


def test_every_quarter_of_the_lengths_has_as_many_prompts() -> None:
    lengths = {f"key-{number}": number * number for number in range(200)}
    chosen = choose(lengths, 40, seed=1)
    assert len(set(chosen)) == 40
    assert Counter(int(key.removeprefix("key-")) // 50 for key in chosen) == {0: 10, 1: 10, 2: 10, 3: 10}
    every_second = [
        key for number, key in enumerate(chosen) if number // STRATA % 2
    ]  # those of one of two comparisons
    assert Counter(int(key.removeprefix("key-")) // 50 for key in every_second) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_more_prompts_keep_those_that_were_drawn_before_and_another_seed_draws_others() -> None:
    lengths = {f"key-{number}": number for number in range(100)}
    assert choose(lengths, 20, seed=1) == choose(lengths, 50, seed=1)[:20]
    assert choose(lengths, 20, seed=1) == choose(dict(reversed(lengths.items())), 20, seed=1)
    assert set(choose(lengths, 20, seed=2)) != set(choose(lengths, 20, seed=1))
    assert sorted(choose(lengths, 200, seed=1)) == sorted(lengths)
    assert choose({}, 40, seed=1) == []
    assert choose({"one": 3}, 40, seed=1) == ["one"]


def test_in_the_first_iteration_the_previous_model_is_the_start() -> None:
    assert others_of(["previous", "start", "real"], START, START) == {"previous": START, "real": None}
    assert others_of(["start", "previous"], Stage.of(0), START) == {"start": START, "previous": Stage.of(0)}


def test_answers_that_are_the_same_text_are_counted_and_not_shown(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, count=100)
    assert assignment.identical == {"previous": 10}
    assert len(assignment.pairs) == 90


def test_no_prompt_is_used_for_two_comparisons_and_each_has_the_same_in_all_iterations(tmp_path: Path) -> None:
    """The answer that came twice would be known to be the iteration's. A comparison has its prompts in every iteration."""
    directory = answered_run(tmp_path / "run")
    of_iterations = []
    for iteration in (0, 1):
        found = with_page(directory, count=20, against=("previous", "start", "real"), iteration=iteration)
        assert len({pair.key for pair in found.pairs}) == len(found.pairs)
        of_iterations.append({(pair.against, pair.key) for pair in found.pairs})
    keys = [{key for name, key in of_iterations[1] if name == against} for against in ("previous", "start", "real")]
    assert [len(one) for one in keys] == [20 - found.identical.get(name, 0) for name in ("previous", "start", "real")]
    assert {key for name, key in of_iterations[0]} == {key for name, key in of_iterations[1] if name != "start"}


def test_sides_and_order_are_random_and_neither_identifiers_nor_order_tell_whose_an_answer_is(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, count=50, against=("previous", "start"))
    sides = Counter(pair.side for pair in assignment.pairs)
    assert min(sides["left"], sides["right"]) > 18  # of 90; fewer happen once in 10^8
    again = with_page(directory, count=50, against=("previous", "start"))
    assert {pair.id for pair in again.pairs}.isdisjoint(pair.id for pair in assignment.pairs)
    assert again.page != assignment.page
    text = directory.review_page(ONE).read_text(encoding="utf-8")
    for told in ("previous", "start", "iteration-", "key-0", '"side"', "against"):
        assert told not in text.partition('id="data"')[2].partition("</script>")[0]


def test_each_side_shows_the_answer_that_the_assignment_says(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, against=("previous", "real"))
    keys = [pair.key for pair in assignment.pairs]
    ours, before = (sampled_answers(directory, one, keys) for one in (ONE, Stage.of(0)))
    prompts = prompts_of(directory, ONE, keys)
    data = page_data(directory, assignment, prompts, ours, {"previous": before, "real": {}})
    assert data["page"] == assignment.page
    other = {"left": "right", "right": "left"}
    for pair, shown in zip(assignment.pairs, data["pairs"], strict=True):
        number = int(pair.key.removeprefix("key-"))
        assert shown[pair.side]["text"] == ours[pair.key]
        assert shown[other[pair.side]]["text"] == (
            f"Real answer {number}." if pair.against == "real" else before[pair.key]
        )
        assert [message["text"] for message in shown["prompt"]] == [f"Prompt {number}?"]
    with refused(RunDirectoryError, "iteration-1", assignment.pairs[0].key):
        page_data(directory, assignment, {}, ours, {"previous": before})


def test_a_text_of_10_mb_is_shortened_and_the_page_says_by_how_much(tmp_path: Path) -> None:
    samples = {
        name: [sample(0, generated=f"{name}+" * 1_250_000, prompt=[{"role": "user", "content": "x" * 10_000_000}])]
        for name in ("start", "iteration-0")
    }
    directory = RunDirectory(
        write_run(tmp_path / "run", record(stage("start", [0]), stage("iteration-0", [0])), samples)
    )
    one = Stage.of(0)
    keys = choose(lengths_of(directory, one), 40, seed=0)
    ours, before = (sampled_answers(directory, of, keys) for of in (one, START))
    _, data = draw_sides(directory, one, prompts_of(directory, one, keys), ours, {"previous": before}, ["previous"])
    (shown,) = data["pairs"]
    lengths = {len(shown[side]["text"]) + shown[side]["left_out"] for side in ("left", "right")}
    assert lengths == {1_250_000 * len("start+"), 1_250_000 * len("iteration-0+")}
    assert {len(shown[side]["text"]) for side in ("left", "right")} == {LONGEST}
    assert shown["prompt"][0]["left_out"] == 10_000_000 - LONGEST


def test_a_sample_without_text_is_named(tmp_path: Path) -> None:
    samples = {name: [sample(0, real=None)] for name in ("start", "iteration-0")}
    directory = RunDirectory(
        write_run(tmp_path / "run", record(stage("start", [0]), stage("iteration-0", [0])), samples)
    )
    with refused(RunDirectoryError, "key-000", "real"):
        lengths_of(directory, Stage.of(0))


def test_an_assignment_names_its_pairs() -> None:
    pair = AssignedPair("a1", "key", "previous", "left")
    found = Assignment("run", "iteration-0", "sampled", "digest", [pair], {})
    assert found.pair("a1") is pair
    assert found.pair("a2") is None


def test_white_space_at_the_ends_tells_nothing(tmp_path: Path) -> None:
    """Generated text often begins with a space; an answer that differs in nothing else is the same."""
    samples = {
        "start": [sample(0, generated="It is 4.\n"), sample(1, generated="  It is 5.")],
        "iteration-0": [sample(0, generated=" It is 4."), sample(1, generated="\n It is 6.\n")],
    }
    directory = RunDirectory(
        write_run(tmp_path / "run", record(stage("start", [0]), stage("iteration-0", [0])), samples)
    )
    assignment = with_page(directory, iteration=0)
    assert assignment.identical == {"previous": 1}
    data = stored_data(directory.review_page("iteration-0"), assignment)
    assert data is not None
    (shown,) = data["pairs"]
    assert {shown[side]["text"] for side in ("left", "right")} == {"It is 5.", "It is 6."}
