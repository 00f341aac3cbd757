"""Scorers: what a generated response is worth, by rules that tasks with one right answer follow.

A recipe names one (`scorer: gsm8k`) or several; `module:function` names one of the user's own. A scorer is called with the
texts of a prompt, its real response and a generated one, and returns a number, or named numbers; nothing (an empty mapping)
where the real response has no answer that could be compared.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from ..data.functions import place_of, resolve_function
from ..errors import RecipeError, nearest

Score = float | Mapping[str, float]
"""What a scorer says of a generated response: a number, or named numbers."""

Scorer = Callable[[str, str, str], Score]
"""Called with the texts of a prompt, its real response and a generated one."""

ANSWER_MARK = "#### "
"""What stands before the final answer in GSM8K (Cobbe et al., arXiv 2110.14168), at the start of its own, last line."""

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")
_NUMBER_IN_TEXT = re.compile(r"(?<![\d.])(?:(?<!\w)-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")  # 3-4 are two, none below 0


def has_answer_line(response: str) -> bool:
    """Whether a line of the response begins with the answer mark and goes on."""
    return any(line.startswith(ANSWER_MARK) and line[len(ANSWER_MARK) :].strip() for line in response.splitlines())


def has_format(response: str) -> bool:
    """Whether the response looks as GSM8K's answers do: lines of working, then one answer line with a number, the last."""
    *working, last = response.splitlines() or [""]
    return (
        any(line.strip() for line in working)
        and not any(line.startswith(ANSWER_MARK) for line in working)
        and last.startswith(ANSWER_MARK)
        and _NUMBER.fullmatch(last.removeprefix(ANSWER_MARK).strip()) is not None
    )


def final_answer(response: str) -> str | None:
    """What stands behind the last answer mark of the response, up to the line's end, without commas and spaces around.

    None if there is no answer mark, or nothing behind it.
    """
    mark = response.rfind(ANSWER_MARK)
    if mark == -1:
        return None
    return response[mark + len(ANSWER_MARK) :].split("\n", 1)[0].replace(",", "").strip() or None


def gsm8k(prompt: str, real: str, generated: str) -> dict[str, float]:
    """Scores of an answer to a GSM8K problem, each 0 or 1.

    Returns:
        `exact_match`: the final answer is the real one; `answer_line`: there is a line with the answer mark; `format`:
        the whole answer looks as GSM8K's do. Nothing if the real response has no answer line, as in other data.
    """
    expected = final_answer(real)
    if expected is None:
        return {}
    return {
        "exact_match": float(final_answer(generated) == expected),
        "answer_line": float(has_answer_line(generated)),
        "format": float(has_format(generated)),
    }


def exact_match(prompt: str, real: str, generated: str) -> float:
    """1 if the generated response is the real one, whitespace aside."""
    return float(generated.split() == real.split())


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


def last_number_in(response: str) -> Decimal | None:
    """The last number of a response, commas between digits aside; None without one."""
    found = [match.group() for match in _NUMBER_IN_TEXT.finditer(response)]
    return Decimal(found[-1].replace(",", "")) if found else None


def choice_letter(response: str) -> str | None:
    """The letter, from A to J, that a response chooses; None if it chooses none.

    What an answer is announced with counts first (`answer is B`, `Answer: (b)`), then a response that begins with its
    letter (`B`, `(B) ...`, `B. ...`), then the last capital letter that stands alone.
    """
    announced = _ANNOUNCED.findall(response)
    if announced:
        return "".join(announced[-1]).upper()
    first = _FIRST_LETTER.match(response)
    if first:
        return first.group(1).upper()
    alone = _LETTER_ALONE.findall(response)
    return str(alone[-1]) if alone else None


# A small letter, and I, are words unless they stand in brackets or nothing but a mark follows.
_ANNOUNCED = re.compile(
    r"(?i:answer|choice)(?i:\s+is)?\s*:?\s*\**(?:([A-HJ])\b(?!')|\(([A-Ja-j])\)|([A-Ja-j])\**(?=[.,;:!]|\s*$))"
    r"|(?i:option)\s+\(?([A-HJ])\b",
    re.MULTILINE,
)
_FIRST_LETTER = re.compile(r"\s*\(?([A-Ja-j])(?:[).:]|\s*$)")
_LETTER_ALONE = re.compile(r"(?<![\w'])([A-HJ])(?![\w'])")  # I is a word


def _same(extract: Callable[[str], object | None]) -> Scorer:
    """A scorer that is 1 where the answers that are extracted from both responses are equal."""

    def score(prompt: str, real: str, generated: str) -> Score:
        expected = extract(real)
        return {} if expected is None else float(extract(generated) == expected)

    return score


def valid_json(prompt: str, real: str, generated: str) -> float:
    """1 if the whole response is JSON."""
    try:
        json.loads(generated)
    except (ValueError, RecursionError):  # thousands of brackets, as a collapsed model writes them
        return 0.0
    return 1.0


def _pattern_matches(pattern: re.Pattern[str], prompt: str, real: str, generated: str) -> float:
    return float(pattern.search(generated) is not None)


SCORERS: Mapping[str, Scorer] = {
    "exact_match": exact_match,
    "gsm8k": gsm8k,
    "boxed": _same(boxed_answer),
    "last_number": _same(last_number_in),
    "choice": _same(choice_letter),
    "json": valid_json,
}
"""By the names that recipes use; `regex:PATTERN` and `module:function` name others."""

REGEX = "regex:"


def scorer_of(names: Sequence[str]) -> Scorer:
    """The scorer that a recipe names; of several, one that returns the numbers of all by their names.

    Args:
        names: of `SCORERS`, `regex:PATTERN` (1 if the pattern is found in the generated response) or `module:function`.

    Raises:
        RecipeError: a name is unknown, a pattern is none, or a name stands there twice.
        DataError: `module:function` names no function that can be imported.
    """
    scorers = {_short_name(name): _scorer_by_name(name) for name in names}
    if len(scorers) < len(names):
        raise RecipeError(f"`scorer` names something twice: {', '.join(map(repr, names))}.")
    if len(names) == 1:
        return scorers[_short_name(names[0])]

    def score(prompt: str, real: str, generated: str) -> Score:
        together: dict[str, float] = {}
        for name, scorer in scorers.items():
            found = scorer(prompt, real, generated)
            if isinstance(found, Mapping):
                together |= {f"{name}.{part}": value for part, value in found.items()}
            else:
                together[name] = found
        return together

    return score


def figures_of(names: Sequence[str]) -> list[str] | None:
    """The figures that scorers give, as [`scorer_of`] has them; None where only calling them would tell.

    Args:
        names: as for [`scorer_of`].
    """
    if not all(name in SCORERS or name.startswith(REGEX) for name in names):
        return None
    found = []
    for name in names:
        parts = list(gsm8k("", f"{ANSWER_MARK}1", "")) if name == "gsm8k" else [""]
        found += [".".join(filter(None, [_short_name(name) if len(names) > 1 else "", part])) for part in parts]
    return [f"score/{name}" if name else "score" for name in found]


def score_of(scorer: Scorer, prompt: str, real: str, generated: str) -> Score:
    """What a scorer says, as numbers.

    Raises:
        RecipeError: it fails, or says something that is no number; the message says where.
    """
    try:
        found = scorer(prompt, real, generated)
    except Exception as error:  # the user's own code
        raise RecipeError(
            f"The scorer fails with {type(error).__name__}: {error}{place_of(error)}. It was called with the prompt "
            f"{prompt[:60]!r}, the real response {real[:60]!r} and the generated one {generated[:60]!r}."
        ) from error
    try:
        if isinstance(found, Mapping):
            return {str(name): float(value) for name, value in found.items()}
        return float(found)
    except (TypeError, ValueError):
        raise RecipeError(
            f"The scorer returned {found!r:.100} for the prompt {prompt[:60]!r}; expected a number, or a mapping from names "
            "to numbers."
        ) from None


def _short_name(name: str) -> str:
    """A name for figures: of a pattern, the pattern; of a function, its own."""
    return name.removeprefix(REGEX) if name.startswith(REGEX) else name.rpartition(":")[2]


def _scorer_by_name(name: str) -> Scorer:
    if name in SCORERS:
        return SCORERS[name]
    if name.startswith(REGEX):
        try:
            return functools.partial(_pattern_matches, re.compile(name.removeprefix(REGEX)))
        except re.error as error:
            raise RecipeError(f"`scorer` is {name!r}, but the pattern can't be read: {error}.") from error
    if ":" in name:
        return resolve_function(name)
    near = nearest(name, SCORERS)
    raise RecipeError(
        f"`scorer` is {name!r}; known are {', '.join(SCORERS)}, `regex:PATTERN` and `module:function`"
        f"{near.replace('; did', '. Did')}"
    )
