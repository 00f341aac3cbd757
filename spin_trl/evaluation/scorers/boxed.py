"""Compare answers in `\\boxed{...}`, as in competition mathematics."""

from __future__ import annotations

from ..scoring import Score, compared


def boxed_answer(response: str) -> str | None:
    """Return the content of a response's last `\\boxed{...}`, up to the matching brace, without spaces; None without one."""
    start = response.rfind("\\boxed{")
    if start == -1:
        return None
    depth = 0
    for end, character in enumerate(response[start:], start):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "}" and depth == 0:
            return "".join(response[start + len("\\boxed{") : end].split())
    return None


def boxed(prompt: str, real: str, generated: str) -> Score:
    """Return 1 if the last boxes of the generated and the real response have the same content."""
    return compared(boxed_answer(real), boxed_answer(generated))
