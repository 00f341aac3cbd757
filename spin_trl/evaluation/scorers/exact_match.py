"""Compare the whole generated response with the real one."""

from __future__ import annotations


def exact_match(prompt: str, real: str, generated: str) -> float:
    """Return 1 if the generated response equals the real one, ignoring differences in whitespace."""
    return float(generated.split() == real.split())
