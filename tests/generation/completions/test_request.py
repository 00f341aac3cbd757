"""A request leaves nothing to the server, and only an answer to it is read as responses."""

import dataclasses
import json

import pytest

from completion_server import EOS, CompletionServer, answered
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.completions.failures import CutAnswerError, MalformedAnswerError
from spin_trl.generation.completions.request import read_responses, request_body
from spin_trl.generation.engine import MicroBatch, Response, Sampling

SAMPLING = Sampling(0.7, 0.9, 40, max_new_tokens=6, max_length=None, num_generations=2, batch_size=2, seed=0)
BATCH = MicroBatch(0, [[5, 6, 7]] * 2, seed=11)


def body(batch=BATCH, sampling=SAMPLING):
    return json.loads(request_body("tiny", batch, sampling, [3, EOS]))


def answer(**server):
    return CompletionServer(**server).answer(body())


def read(found, batch=BATCH, sampling=SAMPLING):
    text = found if isinstance(found, bytes) else json.dumps(found).encode()
    return read_responses(text, batch, sampling, {EOS, 3})


def test_every_sampling_setting_is_sent():
    assert body() == {
        "model": "tiny", "prompt": [5, 6, 7], "n": 2, "max_tokens": 6, "seed": 11,
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "stop": [], "stop_token_ids": [EOS, 3], "min_tokens": 0, "ignore_eos": False, "watermarking": False,
        "skip_special_tokens": False, "include_stop_str_in_output": True, "add_special_tokens": False,
        "return_token_ids": True, "echo": False, "stream": False,
    }  # fmt: skip


def test_the_limit_is_the_one_of_the_prompt():
    assert body(sampling=dataclasses.replace(SAMPLING, max_length=7))["max_tokens"] == 4


def test_greedy_samples_are_asked_for_once():
    """VLLM refuses `n` above 1 at temperature 0."""
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    asked = body(sampling=greedy)
    assert (asked["n"], asked["temperature"]) == (1, 0.0)
    responses = read(CompletionServer(ends_after=2).answer(asked), sampling=greedy)
    assert responses == [Response([*answered([5, 6, 7], 11, 2), EOS], "eos")] * 2


def test_a_temperature_that_vllm_would_change_is_refused():
    with refused(RecipeError, "`temperature`", 0.005, 0.01):
        body(sampling=dataclasses.replace(SAMPLING, temperature=0.005))


def test_a_request_is_for_one_prompt():
    with pytest.raises(ValueError):
        body(MicroBatch(0, [[5], [6]], seed=0))


@pytest.mark.parametrize("seed", [-1, 2**63 - 1])
def test_a_seed_must_fit(seed):
    with pytest.raises(ValueError):
        body(MicroBatch(0, [[5]] * 2, seed=seed))


def test_responses_are_in_the_order_of_their_indices():
    found = answer()
    found["choices"].reverse()
    assert read(found) == [Response(answered([5, 6, 7], seed, 6), "length") for seed in (11, 12)]


def test_a_response_ends_with_the_eos_that_was_sampled():
    assert read(answer(ends_after=3))[1] == Response([*answered([5, 6, 7], 12, 3), EOS], "eos")


def test_eos_as_the_last_token_that_fits_ends_a_response():
    found = answer(ends_after=5)
    found["choices"][0]["finish_reason"] = "length"
    assert read(found)[0].finish_reason == "eos"


def changed_choice(**values):
    found = answer()
    found["choices"][1].update(values)
    return found


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"token_ids": None}, ["token ids", "`return_token_ids`"]),
        ({"prompt_token_ids": None}, ["token ids", "`return_token_ids`"]),
        ({"prompt_token_ids": [5, 6]}, ["`prompt_token_ids`"]),
        ({"prompt_token_ids": [1, 5, 6, 7]}, ["`prompt_token_ids`"]),
        ({"token_ids": "abc"}, ["`token_ids`"]),
        ({"token_ids": [1.0] * 6}, ["`token_ids`"]),
        ({"token_ids": [True] * 6}, ["`token_ids`"]),
        ({"token_ids": [-1] * 6}, ["`token_ids`"]),
        ({"token_ids": [2**31] * 6}, ["`token_ids`"]),
        ({"token_ids": [9] * 7}, [7, "`max_tokens`", 6]),
        ({"token_ids": [9] * 5}, [5, "`max_tokens`", 6, "`--max-model-len`"]),
        ({"token_ids": [9, EOS, 9, 9, 9, 9]}, ["`stop_token_ids`"]),
        ({"token_ids": [9, 77], "finish_reason": "stop"}, [77, "`--generation-config vllm`"]),
        ({"token_ids": [], "finish_reason": "stop"}, ["`--generation-config vllm`"]),
        ({"finish_reason": "tool_calls"}, ["`finish_reason`", "'tool_calls'"]),
        ({"finish_reason": None}, ["`finish_reason`"]),
        ({"finish_reason": ["stop"]}, ["`finish_reason`"]),
        ({"index": 0}, ["`index`"]),
        ({"index": "1"}, ["`index`"]),
        ({"index": [1]}, ["`index`"]),
        ({"index": True}, ["`index`"]),
    ],
)
def test_a_wrong_choice_is_refused(values, parts):
    with refused(MalformedAnswerError, *parts):
        read(changed_choice(**values))


@pytest.mark.parametrize("found", [[], {}, None, 1, {"choices": {}}, {"choices": [1, 2]}, {"choices": None}])
def test_an_answer_of_another_form_is_refused(found):
    with refused(MalformedAnswerError, "`choices`"):
        read(found)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_choices_is_refused(count):
    found = answer()
    found["choices"] = (found["choices"] * 2)[:count]
    with refused(MalformedAnswerError, "`n`", 2, count):
        read(found)


@pytest.mark.parametrize("text", [b"", b'{"choices": [', b"\xff\xfe", b"<html>", b"[" * 100_000])
def test_an_answer_that_is_not_whole_may_be_asked_for_again(text):
    with pytest.raises(CutAnswerError):
        read(text)


def test_a_request_that_the_server_ended_may_be_asked_for_again():
    with refused(CutAnswerError, "`finish_reason`", "'abort'"):
        read(changed_choice(finish_reason="abort", token_ids=[9]))
