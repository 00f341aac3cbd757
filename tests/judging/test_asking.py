"""An endpoint is asked with what it takes, and what is wrong with its address is told."""

import pytest

from completion_server import serving, status
from judge_server import JudgeServer, judge_at
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.completions.address import ServerKey
from spin_trl.judging.asking import judge_address
from spin_trl.judging.judge import ToJudge


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://a/v1", "https://a/v1"),
        (" https://a/v1/ ", "https://a/v1"),
        ("https://a/v1beta/openai/", "https://a/v1beta/openai"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
    ],
)
def test_an_address_keeps_its_version(url: str, address: str) -> None:
    assert judge_address(url, ServerKey("k"), "K") == address


@pytest.mark.parametrize("url", ["", "a", "ftp://a", "https://a/v1?key=hunter2", "https://hunter2@a"])
def test_other_addresses_are_refused(url: str) -> None:
    with refused(RecipeError, "`judge_url`") as error:
        judge_address(url, ServerKey(), "K")
    assert "hunter2" not in str(error.value)


def test_a_question_that_is_refused_does_not_end_the_others() -> None:
    """It may be too long, for instance. Nor is the schema given up for it, once one has been taken."""
    items = [ToJudge("p", f"good {number}") for number in range(4)]
    with serving(JudgeServer()) as server:
        judge = judge_at(server, judge_concurrency=1)
        judge.scores(items[:1])
        server.faults.append(status(400, {"error": {"message": "too long"}}))
        found = judge.scores(items[1:])
    assert [one is None for one in found] == [True, False, False]
    assert "response_format" in server.bodies[-1]
    assert judge.notes().lost is None


def test_an_answer_without_end_is_not_read() -> None:
    with serving(JudgeServer(judgement=lambda prompt, answers: "x" * 2**21)) as server:
        assert judge_at(server).scores([ToJudge("p", "a")]) == [None]


def test_an_address_that_leads_elsewhere_is_not_followed() -> None:
    with serving(JudgeServer(fault=status(307, Location="http://127.0.0.1:9/"))) as server:
        judge = judge_at(server)
        assert judge.scores([ToJudge("p", "a")]) == [None]
    assert "127.0.0.1:9" in str(judge.notes().lost)
