"""Lengths of a preference pair's parts after DPOTrainer has truncated its rows to `max_length` tokens."""

from __future__ import annotations


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
