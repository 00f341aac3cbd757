"""What is left of a row, or of a preference pair's parts, after DPOTrainer has truncated it to `max_length` tokens."""

from __future__ import annotations

from collections.abc import Sequence


def truncated(
    prompt: Sequence[int], response: Sequence[int], max_length: int | None, truncation_mode: str
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of its response that remain, so that a row is measured on what it is trained on.

    Args:
        prompt, response: token ids; the prompt has at least one.
        max_length: maximum number of tokens of both, or None.
        truncation_mode: `keep_start` or `keep_end`. What is left of the prompt has at least one token: if only tokens of the
            response remain, the first of them, which nothing precedes, counts as the prompt.
    """
    whole = [*prompt, *response]
    if max_length is None or len(whole) <= max_length:
        return list(prompt), list(response)
    dropped = len(whole) - max_length if truncation_mode == "keep_end" else 0
    kept, start = whole[dropped : dropped + max_length], max(len(prompt) - dropped, 1)
    return kept[:start], kept[start:]


def truncated_lengths(
    lengths: tuple[int, int, int], max_length: int | None, truncation_mode: str
) -> tuple[int, int, int]:
    """Return the numbers of tokens of a prompt, its chosen and its rejected response that remain.

    Each response forms a row with the prompt, and both rows are truncated separately. The prompt counts once, with the
    tokens that are left of it in any row.

    Args:
        lengths: numbers of tokens of prompt, chosen and rejected response.
        max_length: maximum number of tokens of a row, or None.
        truncation_mode: `keep_start` or `keep_end`.
    """
    if max_length is None:
        return lengths
    prompt, *responses = lengths
    if truncation_mode == "keep_end":
        chosen, rejected = (min(response, max_length) for response in responses)
        return min(prompt, max_length - min(chosen, rejected)), chosen, rejected
    prompt = min(prompt, max_length)
    chosen, rejected = (min(response, max_length - prompt) for response in responses)
    return prompt, chosen, rejected
