"""The answer in `\\boxed{...}`, as competition mathematics has it."""

from __future__ import annotations

from ..scoring import Score, compared


def boxed_answer(response: str) -> str | None:
    """What stands in the last `\\boxed{...}` of a response, braces within it matched, without spaces; None without one."""
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
    """1 if the last box of the generated response holds what that of the real one does."""
    return compared(boxed_answer(real), boxed_answer(generated))
