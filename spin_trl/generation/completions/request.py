"""The body of one request to `/v1/completions`, and its answer as responses.

What decides the form, in vLLM (`vllm.entrypoints.openai.completion`, `vllm.sampling_params`, `vllm.v1.engine`):

- Every sampling setting that a request lacks is taken from the model's `generation_config.json`, so every one is sent.
- The server's own EOS ids are added to `stop_token_ids`, so a response that ends with a token that does not end responses in
  this run is refused.
- `token_ids` always has the token that ended the response; `include_stop_str_in_output` only affects the text.
- Choice i of a request is sampled with the seed `seed + i`.
- `top_k` 0 keeps all tokens. A temperature above 0 and below 0.01 is raised to 0.01, and `n` must be 1 at temperature 0.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from ...counts import counted
from ...errors import RecipeError
from ...files import parse_json
from ..engine import MicroBatch, Response, Sampling
from .failures import CutAnswerError, MalformedAnswerError

COMPLETIONS = "/v1/completions"
"""Path of the requests."""

_LOWEST_TEMPERATURE = 0.01
_MOST_TOKEN_IDS = 2**31
_HIGHEST_SEED = 2**63
_NO_IDS = (
    "it returns no token ids, and text does not determine the tokens that were sampled. The server must return them from "
    "`/v1/completions` with `return_token_ids`, as vLLM does; `transformers serve`, Ollama and hosted chat APIs do not"
)


def request_body(model: str, batch: MicroBatch, sampling: Sampling, eos_token_ids: Collection[int]) -> bytes:
    """Return the JSON of the request for one micro-batch.

    Args:
        model: name of the model, as the server knows it.
        batch: samples of one prompt: its prompts are equal.
        sampling: settings of sampling.
        eos_token_ids: ids of all tokens that end a response.

    Raises:
        RecipeError: if vLLM would change the temperature.
        ValueError: if the prompts differ, or the seed is negative or above 63 bits.
    """
    prompt = list(batch.prompts[0])
    if any(list(other) != prompt for other in batch.prompts[1:]):
        raise ValueError("a request asks for samples of one prompt, but the prompts of this micro-batch differ")
    if not 0 <= batch.seed < _HIGHEST_SEED - len(batch.prompts):
        raise ValueError(f"the seed {batch.seed} does not fit in 63 bits")
    if 0 < sampling.temperature < _LOWEST_TEMPERATURE:
        raise RecipeError(
            f"`temperature` is {sampling.temperature}, which vLLM would raise to {_LOWEST_TEMPERATURE}. Use 0, which "
            f"decodes greedily, or at least {_LOWEST_TEMPERATURE}."
        )
    return body_of(
        model,
        prompt,
        n=len(batch.prompts) if sampling.temperature > 0 else 1,
        max_tokens=sampling.limit(len(prompt)),
        seed=batch.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=sorted(eos_token_ids),
    )


def body_of(model: str, prompt: Sequence[int], **settings: Any) -> bytes:
    """Return the JSON of a request that leaves no setting to the server.

    Args:
        model: name of the model, as the server knows it.
        prompt: token ids of the prompt.
        settings: settings that are not the same in all requests; they replace those that are.
    """
    everything = {
        "model": model,
        "prompt": list(prompt),
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": [],
        "min_tokens": 0,
        "ignore_eos": False,
        "watermarking": False,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "add_special_tokens": False,
        "return_token_ids": True,
        "echo": False,
        "stream": False,
    }
    return json.dumps({**everything, **settings}, separators=(",", ":"), allow_nan=False).encode()


def read_responses(
    answer: bytes, batch: MicroBatch, sampling: Sampling, eos_token_ids: Collection[int]
) -> list[Response]:
    """Return the responses in the answer to a micro-batch's request, in the order of its prompts.

    Args:
        answer: JSON that the server answered with.
        batch: the micro-batch.
        sampling: settings of sampling, as in the request.
        eos_token_ids: ids of all tokens that end a response.

    Raises:
        CutAnswerError: if the answer is truncated, or the server ended the request.
        MalformedAnswerError: if it is not an answer to this request.
    """
    prompt = list(batch.prompts[0])
    greedy = sampling.temperature == 0
    choices = choices_of(answer, prompt, 1 if greedy else len(batch.prompts))
    limit = sampling.limit(len(prompt))
    responses = [_response(choice, limit, eos_token_ids) for choice in choices]
    # Greedy samples of one prompt are equal.
    return (
        [Response(list(responses[0].ids), responses[0].finish_reason) for _ in batch.prompts] if greedy else responses
    )


def choices_of(answer: bytes, prompt: Sequence[int], count: int) -> list[dict[str, Any]]:
    """Return the choices of an answer in the order of their indices, after checking that they answer this prompt.

    Args:
        answer: JSON that the server answered with.
        prompt: token ids that were sent.
        count: number of choices that were asked for.

    Raises:
        CutAnswerError: if the answer is not whole.
        MalformedAnswerError: if it has another number of choices, no token ids, or other prompt ids.
    """
    try:
        found = parse_json(answer)
    except ValueError as error:  # includes text that is not UTF-8
        raise CutAnswerError(f"the answer is not JSON ({type(error).__name__}), or was cut off") from None
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MalformedAnswerError("the answer has no list `choices`")
    indices = [choice.get("index") for choice in choices]
    by_index = {index: choice for index, choice in zip(indices, choices, strict=True) if type(index) is int}
    if len(choices) != count or by_index.keys() != set(range(count)):
        raise MalformedAnswerError(
            f"`n` is {count}, but `choices` has {counted(len(choices), 'entry', 'entries')}, or not every `index`"
        )
    for choice in choices:
        if choice.get("token_ids") is None or choice.get("prompt_token_ids") is None:
            raise MalformedAnswerError(_NO_IDS)
        if choice["prompt_token_ids"] != list(prompt):
            raise MalformedAnswerError(
                "`prompt_token_ids` are not the ids that were sent: the server changed the prompt, for instance by "
                "truncating it or by adding special tokens"
            )
    return [by_index[index] for index in range(count)]


def _response(choice: dict[str, Any], limit: int, eos_token_ids: Collection[int]) -> Response:
    ids, reason = choice["token_ids"], choice.get("finish_reason")
    # `True` is an int, too, but not of the type int.
    if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)) or not _are_in_range(ids):
        raise MalformedAnswerError("`token_ids` is not a list of token ids, which are from 0 to 2,147,483,647")
    if len(ids) > limit:
        raise MalformedAnswerError(f"`token_ids` has {len(ids)} tokens, but `max_tokens` is {limit}")
    if reason == "abort":
        raise CutAnswerError("the server ended the request (`finish_reason` is 'abort')")
    if reason not in ("stop", "length"):
        raise MalformedAnswerError(f"`finish_reason` is {str(reason)[:40]!r}; known are 'stop' and 'length'")
    if not set(eos_token_ids).isdisjoint(ids[:-1]):
        raise MalformedAnswerError("a response goes on after a token of `stop_token_ids`")
    if ids and ids[-1] in eos_token_ids:  # also if it is the last token that fitted
        return Response(ids, "eos")
    if reason == "stop":
        last = f"with token {ids[-1]}" if ids else "without a token"
        raise MalformedAnswerError(
            f"a response ends {last}, which does not end a response in this run ({sorted(eos_token_ids)} do): the server "
            "takes other end tokens from its `generation_config.json`. Serve the model with `--generation-config vllm`"
        )
    if len(ids) < limit:
        raise MalformedAnswerError(
            f"a response was cut off after {counted(len(ids), 'token')}, but `max_tokens` is {limit}: the server's own "
            "limit is lower (`--max-model-len`, or `max_new_tokens` in its `generation_config.json`)"
        )
    return Response(ids, "length")


def _are_in_range(ids: Sequence[int]) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) < _MOST_TOKEN_IDS)
