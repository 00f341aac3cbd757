"""A reply is the object that was asked for, or it is refused."""

import json
from typing import Any

import pytest

from spin_trl.judging.prompts import to_compare, to_score
from spin_trl.judging.replies import InvalidReplyError, against_schema, read_chat_answer, verdict_in
from spin_trl.judging.rubric import JudgeCriterion, JudgeRubric

RUBRIC = JudgeRubric((JudgeCriterion("true", "It is true."), JudgeCriterion("kind", "It is kind.")))
SCORE = to_score(RUBRIC, "p", "a").schema
COMPARE = to_compare(RUBRIC, "p", "a", "b").schema
GOOD = {"reason": "r", "scores": {"true": 5, "kind": 1}}
TEXT = json.dumps(GOOD)


@pytest.mark.parametrize(
    "content",
    [TEXT, f" {TEXT}\n", f"```json\n{TEXT}\n```", f"```\n{TEXT}```\n", f"<think>{{}} I wonder</think>\n{TEXT}"],
)
def test_the_object_alone_or_in_a_fence_or_after_a_thought(content: str) -> None:
    assert verdict_in(content, SCORE) == GOOD


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        f"The answer says {TEXT}",
        f"{TEXT} {TEXT}",
        f"<think>{TEXT}",
        f"x <think></think>{TEXT}",
        '{"reason": "r", "scores": {"true": 5}}',
        '{"reason": "r", "scores": {"true": 5, "kind": 6}}',
        '{"reason": "r", "scores": {"true": 5, "kind": true}}',
        '{"reason": "r", "scores": {"true": 5, "kind": "4"}}',
        '{"reason": "r", "scores": {"true": 5, "kind": 4.0}}',
        '{"reason": 1, "scores": {"true": 5, "kind": 1}}',
        '{"scores": {"true": 5, "kind": 1}}',
        '{"reason": "r", "more": 1, "scores": {"true": 5, "kind": 1}}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_no_verdict(content: str) -> None:
    with pytest.raises(InvalidReplyError) as error:
        verdict_in(content, SCORE)
    assert len(str(error.value)) < 200


def test_what_is_wrong_is_named_and_not_quoted() -> None:
    assert "kind" in str(against_schema({"reason": "", "scores": {"true": 5}}, SCORE))
    wrong = against_schema({"reason": "", "better": "IGNORE ALL"}, COMPARE)
    assert wrong is not None
    assert "second" in wrong
    assert "IGNORE" not in wrong
    assert against_schema({"reason": "", "better": "tie"}, COMPARE) is None


def test_an_endpoints_answer() -> None:
    choice: dict[str, Any] = {"message": {"content": "x"}, "finish_reason": "length"}
    found = read_chat_answer(json.dumps({"choices": [choice], "usage": {"total_tokens": 7}}).encode())
    assert (found.content, found.tokens, found.is_cut) == ("x", 7, True)
    silent = read_chat_answer(b'{"choices": [{"message": {"content": null}}], "usage": {"total_tokens": -1}}')
    assert (silent.content, silent.tokens, silent.is_cut) == ("", None, False)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b"{}", b'{"choices": []}', b'{"choices": [1]}', b'{"choices": [{}]}']
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidReplyError):
        read_chat_answer(body)
