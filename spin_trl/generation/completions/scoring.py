"""The log-probs that a server's model gives to known responses: they tell which weights it serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .failures import MalformedAnswerError
from .request import body_of, choices_of


def scoring_body(model: str, prompt: Sequence[int], response: Sequence[int]) -> bytes:
    """Return the JSON of a request for the log-probs of a response's tokens.

    The server samples one more token, so prompt and response together must be shorter than its context.

    Args:
        model: name of the model, as the server knows it.
        prompt: token ids of the prompt, at least one.
        response: token ids of the response, at least one.

    Raises:
        ValueError: if one of them is empty.
    """
    if not prompt or not response:
        raise ValueError("a response is scored after a prompt, and neither may be empty")
    # At temperature 1 without truncation, the log-probs are the model's own, also with `--logprobs-mode processed_logprobs`.
    return body_of(
        model,
        [*prompt, *response],
        n=1,
        max_tokens=1,
        seed=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        stop_token_ids=[],
        prompt_logprobs=0,
    )


def read_logprobs(answer: bytes, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """Return the log-prob of each token of the response, given the prompt and the tokens before it.

    vLLM answers with `prompt_logprobs` in each choice: null for the first token, and then a mapping for each token, from
    token ids as text to objects with `logprob`, `rank` and `decoded_token`. It writes -9999 for minus infinity.

    Args:
        answer: JSON that the server answered with.
        prompt: token ids of the prompt.
        response: token ids of the response.

    Raises:
        CutAnswerError: if the answer is not whole.
        MalformedAnswerError: if it is not an answer to this request.
    """
    tokens = [*prompt, *response]
    found = choices_of(answer, tokens, 1)[0].get("prompt_logprobs")
    if not isinstance(found, list) or len(found) != len(tokens):
        raise MalformedAnswerError(
            f"`prompt_logprobs` is not a list of {len(tokens)}, one for each token of the prompt"
        )
    return [_logprob(found[place], tokens[place]) for place in range(len(prompt), len(tokens))]


def _logprob(found: Any, token: int) -> float:
    entry = found.get(str(token)) if isinstance(found, dict) else None
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value > 1e-3:
        raise MalformedAnswerError(f"`prompt_logprobs` has no log-prob for token {token}, which was sent")
    return float(value)
