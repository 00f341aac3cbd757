"""Log-probs of known responses are read from `prompt_logprobs`, token by token."""

import json

import pytest

from completion_server import CompletionServer, logprob
from messages import refused
from spin_trl.generation.completions.failures import CutAnswerError, MalformedAnswerError
from spin_trl.generation.completions.scoring import read_logprobs, scoring_body

PROMPT, RESPONSE = [5, 6], [7, 8, 9]


def answer():
    return CompletionServer().answer(json.loads(scoring_body("tiny", PROMPT, RESPONSE)))


def read(found):
    return read_logprobs(json.dumps(found).encode(), PROMPT, RESPONSE)


def test_the_whole_is_sent_as_a_prompt():
    body = json.loads(scoring_body("tiny", PROMPT, RESPONSE))
    assert (body["prompt"], body["n"], body["max_tokens"], body["prompt_logprobs"]) == ([5, 6, 7, 8, 9], 1, 1, 0)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)


def test_only_the_responses_log_probs_are_returned():
    assert read(answer()) == [logprob(2, 7), logprob(3, 8), logprob(4, 9)] == [-2.007, -3.008, -4.009]


def test_the_most_likely_token_is_not_taken_for_the_one_that_was_sent():
    found = answer()
    found["choices"][0]["prompt_logprobs"][3] = {"1": {"logprob": -0.1}, "8": {"logprob": -5.5}}
    assert read(found)[1] == -5.5


@pytest.mark.parametrize(
    "entry",
    [None, {}, 1, {"7": {"logprob": -1.0}}, {"8": -1.0}, {"8": {}}, {"8": {"logprob": "x"}}, {"8": {"logprob": True}},
     {"8": {"logprob": float("nan")}}, {"8": {"logprob": float("-inf")}}, {"8": {"logprob": 0.5}}],
)  # fmt: skip
def test_a_wrong_log_prob_is_refused(entry):
    found = answer()
    found["choices"][0]["prompt_logprobs"][3] = entry
    with refused(MalformedAnswerError, "`prompt_logprobs`", 8):
        read(found)


@pytest.mark.parametrize("scored", [None, [], {}, [None] * 6])
def test_another_number_of_log_probs_is_refused(scored):
    found = answer()
    found["choices"][0]["prompt_logprobs"] = scored
    with refused(MalformedAnswerError, "`prompt_logprobs`", 5):
        read(found)


def test_other_tokens_than_those_sent_are_refused():
    found = answer()
    found["choices"][0]["prompt_token_ids"] = [5, 6, 7, 8]
    with refused(MalformedAnswerError, "`prompt_token_ids`"):
        read(found)


def test_a_truncated_answer_may_be_asked_for_again():
    with pytest.raises(CutAnswerError):
        read_logprobs(json.dumps(answer()).encode()[:-5], PROMPT, RESPONSE)


@pytest.mark.parametrize(("prompt", "response"), [([], [1]), ([1], [])])
def test_neither_may_be_empty(prompt, response):
    with pytest.raises(ValueError):
        scoring_body("tiny", prompt, response)
