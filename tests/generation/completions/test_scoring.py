"""Log-probs of known responses are asked for and read token by token."""

import asyncio
import json

import pytest

from completion_server import CompletionServer, logprob
from messages import refused
from recorded_vllm import recorded
from spin_trl.generation.completions.failures import CutAnswerError, MalformedAnswerError
from spin_trl.generation.completions.scoring import ENOUGH, read_logprob, response_logprobs, scoring_body

BEFORE, TOKEN = [5, 6, 7], 8


def answer():
    return CompletionServer().answer(json.loads(scoring_body("tiny", BEFORE, TOKEN)))


def read(found):
    return read_logprob(json.dumps(found).encode(), BEFORE, TOKEN)


def scored(prompt, response, change=lambda answer: None):
    """Return the log-probs of a response, and the requests that were sent for them."""
    bodies = []

    async def ask(body, read):
        bodies.append(json.loads(body))
        found = CompletionServer().answer(bodies[-1])
        change(found)
        return read(json.dumps(found).encode())

    return asyncio.run(response_logprobs(ask, "tiny", prompt, response)), bodies


def test_the_token_is_the_only_one_that_may_be_sampled():
    body = json.loads(scoring_body("tiny", BEFORE, TOKEN))
    assert (body["prompt"], body["n"], body["max_tokens"], body["allowed_token_ids"]) == ([5, 6, 7], 1, 1, [8])
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([], True)


def test_a_servers_prompt_log_probs_are_never_asked_for():
    """With adapters, they end the engine of vLLM 0.31 on a CPU."""
    _, bodies = scored([5, 6], [7, 8, 9])
    assert not any("prompt_logprobs" in body for body in bodies)


def test_each_token_is_scored_after_those_before_it():
    found, bodies = scored([5, 6], [7, 8, 9])
    assert found == [logprob(2, 7), logprob(3, 8), logprob(4, 9)] == [-2.007, -3.008, -4.009]
    assert [(body["prompt"], body["allowed_token_ids"]) for body in bodies] == [
        ([5, 6], [7]),
        ([5, 6, 7], [8]),
        ([5, 6, 7, 8], [9]),
    ]


def test_the_answer_of_a_real_server_is_read():
    """With an adapter, whose log-prob differs from the base model's."""
    found = recorded("forced-token")
    [token] = found.request["allowed_token_ids"]
    value = read_logprob(json.dumps(found.answer).encode(), found.request["prompt"], token)
    assert value == found.answer["choices"][0]["logprobs"]["token_logprobs"][0] < -0.01
    sent = json.loads(scoring_body(found.request["model"], found.request["prompt"], token))
    assert sent == found.request


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, 1, {"token_logprobs": []}, {"token_logprobs": None}, {"token_logprobs": [-1.0, -1.0]},
     {"token_logprobs": ["x"]}, {"token_logprobs": [True]}, {"token_logprobs": [float("nan")]},
     {"token_logprobs": [float("-inf")]}, {"token_logprobs": [0.5]}],
)  # fmt: skip
def test_a_wrong_log_prob_is_refused(logprobs):
    found = answer()
    found["choices"][0]["logprobs"] = logprobs
    with refused(MalformedAnswerError, "`logprobs`", 8):
        read(found)


@pytest.mark.parametrize("ids", [[9], [], [8, 8]])
def test_a_server_that_samples_other_tokens_is_refused(ids):
    found = answer()
    found["choices"][0]["token_ids"] = ids
    with refused(MalformedAnswerError, "`allowed_token_ids`", 8):
        read(found)


def test_log_probs_among_the_allowed_tokens_are_refused():
    """The only token that may be sampled is certain. In a short response, all tokens may be."""

    def certain(answer):
        answer["choices"][0]["logprobs"]["token_logprobs"] = [0.0]

    assert scored([5], [7] * (ENOUGH - 1), certain)[0] == [0.0] * (ENOUGH - 1)
    with refused(MalformedAnswerError, "`--logprobs-mode processed_logprobs`", "`--logprobs-mode raw_logprobs`"):
        scored([5], [7] * ENOUGH, certain)


def test_another_prompt_than_the_one_sent_is_refused():
    found = answer()
    found["choices"][0]["prompt_token_ids"] = [5, 6, 7, 8]
    with refused(MalformedAnswerError, "`prompt_token_ids`"):
        read(found)


def test_a_truncated_answer_may_be_asked_for_again():
    with pytest.raises(CutAnswerError):
        read_logprob(json.dumps(answer()).encode()[:-5], BEFORE, TOKEN)


@pytest.mark.parametrize(("prompt", "response"), [([], [1]), ([1], [])])
def test_neither_may_be_empty(prompt, response):
    with pytest.raises(ValueError):
        scored(prompt, response)
