"""A rubric is read with its weights, and what is wrong with it is named."""

from pathlib import Path

import pytest

from messages import refused
from spin_trl.config.judge import JudgeSettings
from spin_trl.errors import RecipeError
from spin_trl.judging.rubric import JudgeCriterion, JudgeRubric, judge_rubric_of, judged_criteria, read_judge_rubric


def read(text: str) -> JudgeRubric:
    file = Path("my rubric.yaml")
    file.write_text(text, encoding="utf-8")
    return read_judge_rubric(file)


def test_the_shipped_rubric_is_one() -> None:
    rubric = read_judge_rubric()
    assert rubric.names == ["correct", "helpful", "clear", "harmless"]
    assert rubric.mean(rubric.shares(dict.fromkeys(rubric.names, 3))) == 0.5


def test_scores_are_shares_of_the_scale_and_the_mean_is_weighted() -> None:
    rubric = read("criteria:\n- {name: a, description: A., weight: 3}\n- {name: b, description: 'B\n  b.'}\n")
    assert rubric.criteria == (JudgeCriterion("a", "A.", 3.0), JudgeCriterion("b", "B b.", 1.0))
    shares = rubric.shares({"a": 5, "b": 1})
    assert shares == {"a": 1.0, "b": 0.0}
    assert rubric.mean(shares) == 0.75


def test_every_change_of_a_rubric_changes_its_digest() -> None:
    one = JudgeRubric((JudgeCriterion("a", "A."),))
    others = [("b", "A.", 1.0), ("a", "B.", 1.0), ("a", "A.", 2.0)]
    assert one.digest not in {JudgeRubric((JudgeCriterion(*other),)).digest for other in others}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["null", "`criteria`"]),
        ("criteria: []", ["[]", "`criteria`"]),
        ("criteria: []\nscale: 5", ["`scale`"]),
        ("criteria: [wise]", ["criterion 1", "'wise'", "`description`"]),
        ("criteria:\n- {name: a b, description: x}", ["criterion 1", "`name`", "'a b'"]),
        ("criteria:\n- {name: ab}", ["ab", "`description`", "null"]),
        ("criteria:\n- {name: ab, description: x, wheight: 2}", ["criterion 1", "`wheight`"]),
        ("criteria:\n- {name: ab, description: x, weight: 0}", ["ab", "`weight`", "0"]),
        ("criteria:\n- {name: ab, description: x, weight: .inf}", ["ab", "`weight`", "inf"]),
        ("criteria:\n- {name: ab, description: x, weight: true}", ["ab", "`weight`", "True"]),
        ("criteria:\n- {name: ab, description: x}\n- {name: ab, description: y}", ["'ab'"]),
        ("criteria: {", []),
    ],
)
def test_what_is_wrong_is_named_with_the_file(text: str, parts: list[str]) -> None:
    with refused(RecipeError, "my rubric.yaml", *parts):
        read(text)


def test_a_missing_file_is_named() -> None:
    with refused(RecipeError, "`judge_rubric`", "none.yaml"):
        read_judge_rubric(Path("none.yaml"))


def test_the_criteria_of_settings_are_known_before_there_is_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a file that can't be read are not, and whoever makes the judge says why."""
    assert judged_criteria(JudgeSettings()) == ["correct", "helpful", "clear", "harmless"]
    read("criteria:\n- {name: kind, description: Kind.}\n")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert judged_criteria(JudgeSettings(judge_rubric="~/my rubric.yaml")) == ["kind"]
    missing = JudgeSettings(judge_rubric="none.yaml")
    assert judged_criteria(missing) is None
    with refused(RecipeError, "none.yaml"):
        judge_rubric_of(missing)
