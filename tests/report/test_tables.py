"""The report's tables show every stage with its intervals and the right comparisons, and the costs."""

from made_up import record, stage
from messages import names
from spin_trl.report.tables import LONGEST_FACT, costs, devices, facts, figures, standings


def cells(table):
    return {
        row.label.replace("\u00a0", " "): [
            (cell.text.replace("\u00a0", " "), cell.detail.replace("\u2212", "-")) for cell in row.cells
        ]
        for row in table.rows
    }


GATE = [
    {"phase": "gate", "stage": "iteration-0", "decision": "improved", "opponent": "iteration-0", "lr_scale": 1.0},
    {"phase": "gate", "stage": "iteration-1", "decision": "fell back", "opponent": "iteration-0", "lr_scale": 0.5},
]
RUN = record(
    stage("start", range(20)),
    stage("iteration-0", range(60)),
    stage("iteration-1", range(50)),
    stage("iteration-2", range(70)),
    stage("baseline/sft/iteration-0", range(42)),
    stage("baseline/sft/iteration-1", range(78)),
    best="iteration-2",
    journal=GATE,
)


def test_an_iteration_is_compared_with_the_model_that_it_started_from_and_a_baseline_with_self_play():
    """Differences use Agresti and Min's interval: ten won give 3.7 to 15.9 points, 18 lost 10.0 to 25.3, and 40 won
    29.5 to 48.9.
    """
    table = standings(RUN)
    assert list(table.headings) == ["model", "score", "difference", "from the start", "decision"]
    found = cells(table)
    assert found["start"][0] == ("20.0 %", "15.0 to 25.0")
    assert found["start"][1:3] == [("–", ""), ("–", "")]
    assert found["iteration 0"][1:] == [
        ("+40.0 points", "+29.5 to +48.9\nfrom the start"), ("+40.0 points", "+29.5 to +48.9"), ("improved", ""),
    ]  # fmt: skip
    assert found["iteration 1"][3] == ("fell back", "learning rate × 0.5")
    assert found["iteration 2"][1] == ("+10.0 points", "+3.7 to +15.9\nfrom iteration 0")
    assert found["plain SFT, iteration 0"][1] == ("−18.0 points", "-25.3 to -10.0\nfrom iteration 0")
    assert found["plain SFT, iteration 1"][1][1].endswith("from iteration 1")
    assert [row.is_best for row in table.rows] == [False, False, False, True, False, False]
    assert [row.opens_group for row in table.rows] == [False, False, False, False, True, False]


def test_without_decisions_there_is_no_such_column_and_what_was_not_measured_is_a_dash():
    table = standings(record(stage("start", range(20)), stage("iteration-0"), best="start"))
    assert "decision" not in table.headings
    assert cells(table)["iteration 0"] == [("–", "")] * 3


def test_the_figures_stand_with_their_intervals_by_what_they_are_about():
    found = figures(RUN)
    assert list(found) == ["Scores and likelihood", "The game against the opponent", "The answers"]
    scores = found["Scores and likelihood"]
    assert list(scores.headings) == ["model", "score", "NLL per token", "win rate", "log-prob., real"]
    assert cells(scores)["iteration 0"][1:] == [("0.500", "0.400 to 0.600"), ("80.0 %", "70.0 to 90.0"), ("−6.0", "")]
    assert "plain SFT, iteration 0" in cells(scores)
    assert "start" not in cells(found["The game against the opponent"])
    assert figures(record()) == {}


def test_named_scores_are_columns():
    run = record(
        stage("start", figures={"score/exact_match": 0.5, "score/exact_match_se": 0.1, "score_greedy/f1": 0.25})
    )
    assert list(figures(run)["Scores and likelihood"].headings) == ["model", "exact match", "greedy f1"]


def test_the_cost_is_by_stage_and_phase_and_adds_up():
    journal = [
        {"phase": "prepare", "stage": "data"},
        {"phase": "evaluate", "stage": "start", "seconds": 10.0},
        {"phase": "generate", "stage": "iteration-0", "seconds": 30.0, "tokens": 1500, "device": "H100", "processes": 8,
         "compute": {"prefilled": 500, "sampled": 1500}},
        {
            "phase": "train", "stage": "iteration-0", "seconds": 95.0, "steps": 12, "device": "H100", "processes": 8,
            "compute": {"trained": 6000, "scored": 3000},
            "pairs": {"total": 100, "empty": 3, "truncated": 0, "identical": 7, "dropped": 0},
        },
        {"phase": "evaluate", "stage": "iteration-0", "seconds": 10.0, "device": "CPU", "processes": 1},
        {"phase": "gate", "stage": "iteration-0", "decision": "improved"},
        {"phase": "lm-eval", "stage": "iteration-0", "seconds": 7200.0},
    ]  # fmt: skip
    run = record(stage("start", range(20)), stage("iteration-0", range(60)), journal=journal)
    found = cells(costs(run))
    assert [text for text, _ in found["iteration 0"]] == [
        "30.0 s",
        "1 min 35 s",
        "10.0 s",
        "2 min 15 s",
        "1,500",
        "12",
        "100",
        "23,000",
    ]
    assert found["iteration 0"][-2] == ("100", "3 empty, 7 identical")
    # 3 x 6,000 + 3,000 + 500 + 1,500
    assert found["iteration 0"][-1] == ("23,000", "6,000 trained, 3,000 scored, 500 prefilled, 1,500 sampled")
    assert [text for text, _ in found["total"]] == [
        "30.0 s",
        "1 min 35 s",
        "20.0 s",
        "2 min 25 s",
        "1,500",
        "12",
        "",
        "23,000",
    ]
    assert [text for text, _ in found["start"]] == ["–", "–", "10.0 s", "10.0 s", "–", "–", "–", "–"]
    assert devices(run) == "H100 × 8, CPU"
    assert costs(record()).rows == []
    assert devices(record()) == ""


def test_facts_of_a_run_from_a_recipe_and_of_one_from_python():
    settings = {"model_name_or_path": "my/model", "dataset_name": "data.jsonl", "loss_type": ["sigmoid", "sft"]}
    found = facts(record(stage("start", range(20)), planned=3, settings=settings))
    assert (found["Model"], found["Data"], found["Objective"]) == ("my/model", "data.jsonl", "sigmoid + sft")
    assert (found["Iterations"], found["Held out"], found["Baseline"]) == ("0 of 3", "100 prompts", "none")
    assert "Scorer" not in found
    assert "Rubric" not in found
    found = facts(record(settings={"python": {"model": "folder"}}))
    assert (found["Model"], found["Data"], found["Held out"]) == ("folder", "passed from Python", "–")
    assert facts(record(settings={"python": {"model": None}}))["Model"] == "built from scratch"


def test_the_isolation_of_generated_code_is_a_fact():
    """If a run was continued on another machine, the isolation of both is listed."""
    entries = [{"phase": "evaluate", "stage": name} for name in ("start", "iteration-0", "iteration-1")]
    assert "Generated code" not in facts(record(journal=entries))
    entries[1]["isolation"] = ["namespaces", "limits"]
    entries[2]["isolation"] = ["limits"]
    found = facts(record(journal=entries))["Generated code"]
    assert [text.split()[:1] for text in found.split("; ")] == [["isolated"], ["not"]]
    assert "namespaces" in found


def test_the_criteria_of_a_rubric_are_a_fact():
    rubric = {"criteria": [{"name": "short", "weight": 2, "words": {"max": 9}}, {"name": "data", "format": "json"}]}
    assert facts(record(settings={"rubric": rubric}))["Rubric"] == "short (weight 2), data"
    assert "Rubric" not in facts(record(settings={"rubric": {"criteria": "damaged"}}))


def test_a_judge_and_what_is_wrong_with_its_scores_are_facts():
    judge = {"model": "wise", "host": "judge.example", "follows_instructions": True}
    found = facts(record(journal=[{"phase": "evaluate", "stage": "start", "judge": judge}]))
    assert names(found["Judge"], "wise", "judge.example")
    assert names(found["Judge's faults"], "instructions")
    assert not {"Judge", "Judge's faults"} & facts(record()).keys()


def test_a_fact_takes_a_line_and_not_a_page():
    assert (
        facts(record(settings={"scorer": ["regex:" + "x" * 100_000]}))["Scorer"]
        == f"regex:{'x' * (LONGEST_FACT - 6)}…"
    )
