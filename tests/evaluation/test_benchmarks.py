"""The papers' benchmarks are tasks of the harness, with their shots, and their numbers are read as in the papers."""

import importlib.util

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation.benchmarks import SUITES, Benchmark, average, check_tasks, chosen, scores

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness, an optional extra, is not installed"
)

ALL = list(dict.fromkeys(one for benchmarks in SUITES.values() for one in benchmarks))


def results(found, shots=None, groups=None):
    """Return the parts of the harness's results that are read."""
    shots = shots or dict.fromkeys(found, 0)
    return {"results": found, "groups": groups or {}, "n-shot": shots, "configs": {name: {} for name in shots}}


def test_the_suites_are_the_papers_with_their_shots():
    """SPIN's table and T-SPIN's appendix state them; IRIS has the same ten."""
    shots = {name: [(one.name, one.shots) for one in benchmarks] for name, benchmarks in SUITES.items()}
    assert shots == {
        "open_llm_leaderboard_v1": [
            ("ARC", 25), ("TruthfulQA", 0), ("WinoGrande", 5), ("GSM8K", 5), ("HellaSwag", 10), ("MMLU", 5),
        ],
        "iris_ten": [
            ("GSM8K", 5), ("MATH", 4), ("MuSR", 0), ("MMLU", 5), ("MMLU-Pro", 5),
            ("GPQA", 0), ("HellaSwag", 10), ("WinoGrande", 5), ("BBH", 3), ("IFEval", 0),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def index():
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    return TaskManager().task_index


def leaves(index, name):
    """Return complete configurations of the tasks in a task or group, with functions by name."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = index[name]
    if entry.kind.name == "TAG":
        return [leaf for child in entry.tags for leaf in leaves(index, child)]
    if "group" not in entry.cfg:
        return [load_yaml(entry.yaml_path, resolve_func=False)]
    return [leaf for child in entry.cfg["task"] for leaf in leaves(index, child)]


@needs_harness
@pytest.mark.parametrize("benchmark", ALL, ids=lambda one: one.task)
@pytest.mark.slow
def test_the_harness_has_every_benchmark_and_measures_what_is_read(index, benchmark):
    parts = leaves(index, benchmark.task)
    for metric in benchmark.metrics:
        name, _, filter_name = metric.partition(",")
        for part in parts:
            assert name in [one["metric"] for one in part["metric_list"]]
            assert filter_name in [one["name"] for one in part.get("filter_list", [{"name": "none"}])]
        if "group" in index[benchmark.task].cfg:
            (of_group,) = index[benchmark.task].cfg["aggregate_metric_list"]
            assert (of_group["metric"], filter_name) == (name, "none")
    # The harness keeps a task at zero shots if the task itself asks for zero, regardless of the request.
    assert all(benchmark.shots == 0 for part in parts if part.get("num_fewshot") == 0)


@needs_harness
def test_the_groups_are_whole(index):
    """They have 57 subjects, and the numbers of parts given on the leaderboard's own pages."""
    parts = {one.task: len(leaves(index, one.task)) for one in ALL if "group" in index[one.task].cfg}
    assert parts == {
        "mmlu": 57, "leaderboard_math_hard": 7, "leaderboard_musr": 3, "leaderboard_gpqa": 3, "leaderboard_bbh": 24,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "printed"),
    [
        ([65.87, 54.90, 73.72, 38.97, 85.54, 59.99], 63.16),  # SPIN's iteration 3
        ([60.41, 43.73, 74.19, 26.76, 82.85, 60.92], 58.14),  # zephyr-7b-sft-full in its table
        ([42.21, 4.97, 42.89, 58.93, 30.57, 30.96, 84.05, 74.43, 45.82, 30.82], 44.57),  # IRIS's iteration 4
    ],
)
def test_the_average_is_that_of_the_papers_tables(row, printed):
    assert average(row) == pytest.approx(printed, abs=0.006)


def test_there_is_no_average_of_a_part():
    assert average([1.0, None]) is None
    assert average([]) is None


def test_a_benchmarks_number_is_the_metric_of_the_papers_table():
    arc = SUITES["open_llm_leaderboard_v1"][0]
    found = {
        "arc_challenge": {"acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.6, "acc_norm_stderr,none": 0.02}
    }
    (score,) = scores(arc, results(found, {"arc_challenge": 25}))
    assert (score.value, score.stderr, score.shots, score.metric) == (0.6, 0.02, "25", "acc_norm")


def test_gsm8k_is_read_by_its_strict_filter():
    gsm8k = SUITES["iris_ten"][0]
    found = {"gsm8k": {"exact_match,strict-match": 0.25, "exact_match,flexible-extract": 0.75, "alias": "gsm8k"}}
    (score,) = scores(gsm8k, results(found))
    assert (score.value, score.metric) == (0.25, "exact_match,strict-match")


def test_ifeval_is_the_mean_of_prompts_and_instructions():
    """This follows the second leaderboard: Llama-2-7B's published 25.19 is that of 0.18484 and 0.31894."""
    ifeval = SUITES["iris_ten"][-1]
    parts = {"prompt_level_strict_acc,none": 0.18484288354898337, "inst_level_strict_acc,none": 0.31894484412470026}
    (score,) = scores(ifeval, results({"leaderboard_ifeval": {**parts, "inst_level_strict_acc_stderr,none": "N/A"}}))
    assert 100 * score.value == pytest.approx(25.19, abs=0.005)
    assert score.stderr is None


def test_the_number_of_a_group_is_its_own_not_a_parts():
    found = {"mmlu_law": {"acc,none": 0.1}, "mmlu": {"acc,none": 0.3}}
    given = results(found, {"mmlu_law": 5}, {"mmlu": {"acc,none": 0.3, "acc_stderr,none": 0.01}})
    (score,) = scores(Benchmark("MMLU", "mmlu", 5, ("acc,none",)), given)
    assert (score.value, score.stderr) == (0.3, 0.01)


def test_all_that_another_task_measures_is_shown():
    found = {"mine": {"alias": "mine", "acc,none": 0.5, "acc_stderr,none": "N/A", "f1,none": 0.25, "sample_len": 8}}
    shown = [(one.metric, one.value, one.stderr) for one in scores(Benchmark("mine", "mine"), results(found))]
    assert shown == [("acc", 0.5, None), ("f1", 0.25, None)]


def test_a_group_without_a_number_of_its_own_is_shown_by_its_parts():
    found = {"one": {"acc,none": 0.5}, "two": {"acc,none": 0.7}, "both": {"alias": "both"}}
    shown = scores(Benchmark("both", "both"), results(found, {"one": 3, "two": 0}, {"both": {"alias": "both"}}))
    assert [(one.task, one.value, one.shots) for one in shown] == [("one", 0.5, "0–3"), ("two", 0.7, "0–3")]


def test_names_mean_suites_and_tasks_each_once():
    found = chosen(["iris_ten", "arc_easy", "iris_ten", "arc_easy"])
    assert list(found) == ["iris_ten", ""]
    assert found[""] == (Benchmark("arc_easy", "arc_easy"),)
    assert found["iris_ten"] == SUITES["iris_ten"]


def test_other_shots_replace_those_of_the_suite():
    found = chosen(["open_llm_leaderboard_v1", "arc_easy"], shots=3)
    assert {one.shots for benchmarks in found.values() for one in benchmarks} == {3}
    assert [one.metrics for one in found["open_llm_leaderboard_v1"]] == [
        one.metrics for one in SUITES["open_llm_leaderboard_v1"]
    ]


@pytest.mark.parametrize(("name", "near"), [("gsm9k", "gsm8k"), ("iris_tem", "iris_ten")])
def test_a_task_that_is_unknown_is_named_with_the_nearest(name, near):
    with refused(RecipeError, "`--tasks`", repr(name), repr(near)):
        check_tasks(["hellaswag", name], ["hellaswag", "gsm8k"])
