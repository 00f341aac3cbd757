"""The generated response is the real one."""

from __future__ import annotations


def exact_match(prompt: str, real: str, generated: str) -> float:
    """1 if the generated response is the real one, whitespace aside."""
    return float(generated.split() == real.split())
