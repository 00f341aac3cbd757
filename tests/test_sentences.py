"""The quickstart's task scores right and wrong answers correctly, and no held-out prompt is trained on."""

import pytest

from spin_trl.sentences import load, make_rows, renderings, score

PROMPT = "Cleo red found kite barn>"


def test_a_prompt_has_four_right_answers_whatever_the_order_of_its_words():
    expected = [
        "Cleo found a red kite in the barn.",
        "In the barn Cleo found a red kite.",
        "A kite, red: Cleo found it in the barn.",
        "Cleo in the barn: found a kite, red.",
    ]
    assert renderings(PROMPT) == expected
    assert renderings("barn kite found red Cleo>") == expected


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Cleo found a red kite in the barn.", 1.0),
        ("In the barn Cleo found a red kite.", 1.0),  # not the human's answer, but right
        ("Cleo found a red kite in the barn", 0.0),
        ("Cleo found a blue kite in the barn.", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_is_right_if_it_is_one_of_them(answer, value):
    assert score(PROMPT, "Cleo found a red kite in the barn.", answer) == value


def test_every_human_answer_is_right_and_all_four_patterns_are_used():
    rows = make_rows(400, seed=1)
    used = [renderings(row["prompt"]).index(row["completion"]) for row in rows]
    assert all(70 < used.count(pattern) < 130 for pattern in range(4))  # 100 each; 5 standard deviations are 43


def test_training_and_held_out_prompts_are_1000_each_and_disjoint():
    train, test = load("train"), load("test")
    assert len(train) == len(test) == 1000

    def attributes(rows):
        return {frozenset(prompt.removesuffix(">").split()) for prompt in rows["prompt"]}

    assert len(attributes(train)) == len(attributes(test)) == 1000
    assert not attributes(train) & attributes(test)
