"""The log-probs that a server's model gives to known responses: they tell which weights it serves.

Each token is asked for in a request of its own: what precedes it is the prompt, and it is the only token that may be
sampled. vLLM could return all of them for one prompt (`prompt_logprobs`), but with `--enable-lora` that ends version 0.31's
engine on a CPU, and the server with it; and from outside it is not known how a server was started. With its prefix cache, a
request computes a few tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Sequence

from .failures import MalformedAnswerError
from .request import body_of, choices_of

ENOUGH = 8
"""Tokens of a response that can't all be certain."""

Ask = Callable[[bytes, Callable[[bytes], float]], Awaitable[float]]
"""Sends a request, and returns what a function reads from its answer."""


async def response_logprobs(ask: Ask, model: str, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """Return the log-prob of each token of a response, given the prompt and the tokens before it.

    Args:
        ask: function that sends a request.
        model: name of the model, as the server knows it.
        prompt: token ids of the prompt, at least one.
        response: token ids of the response, at least one.

    Raises:
        CompletionsError: if a request fails.
        MalformedAnswerError: if an answer is not one to its request, or all log-probs are 0.
        ValueError: if prompt or response is empty.
    """
    if not prompt or not response:
        raise ValueError("a response is scored after a prompt, and neither may be empty")
    found = []
    for place, token in enumerate(response):
        before = [*prompt, *response[:place]]
        read = functools.partial(read_logprob, before=before, token=token)
        found.append(await ask(scoring_body(model, before, token), read))
    if len(found) >= ENOUGH and not any(found):
        raise MalformedAnswerError(
            "all log-probs of a response are 0: the server computes them among the tokens that may be sampled "
            "(`--logprobs-mode processed_logprobs`). Serve the model with vLLM's default, `--logprobs-mode raw_logprobs`"
        )
    return found


def scoring_body(model: str, before: Sequence[int], token: int) -> bytes:
    """Return the JSON of a request for the log-prob of one token.

    Args:
        model: name of the model, as the server knows it.
        before: token ids before it.
        token: id of the token.
    """
    # At temperature 1 without truncation, so that also `--logprobs-mode processed_logits` changes nothing else.
    return body_of(
        model,
        before,
        n=1,
        max_tokens=1,
        seed=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        stop_token_ids=[],
        ignore_eos=True,
        allowed_token_ids=[token],
        logprobs=0,
    )


def read_logprob(answer: bytes, before: Sequence[int], token: int) -> float:
    """Return the log-prob of the token that a request has asked for.

    vLLM answers with `logprobs` in each choice, an object whose list `token_logprobs` has a number for each token that was
    sampled. It writes -9999 for minus infinity.

    Args:
        answer: JSON that the server answered with.
        before: token ids before it.
        token: id of the token.

    Raises:
        CutAnswerError: if the answer is not whole.
        MalformedAnswerError: if it is not an answer to this request.
    """
    [choice] = choices_of(answer, before, 1)
    if choice["token_ids"] != [token]:
        raise MalformedAnswerError(
            f"the server sampled other tokens than {token}, the only one in `allowed_token_ids`; it must support this "
            "setting, as vLLM does"
        )
    found = choice.get("logprobs")
    values = found.get("token_logprobs") if isinstance(found, dict) else None
    value = values[0] if isinstance(values, list) and len(values) == 1 else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value > 1e-3:
        raise MalformedAnswerError(
            f"`logprobs` has no log-prob in `token_logprobs` for token {token}, which was sampled"
        )
    return float(value)
