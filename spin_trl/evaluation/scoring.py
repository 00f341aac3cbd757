"""Scorers: rule-based scores of generated responses, for tasks with one right answer.

A recipe names one scorer (`scorer: gsm8k`) or several; `module:function` names the user's own. A scorer is called with the
texts of a prompt, its real response and a generated one, and returns a number or named numbers, or an empty mapping if the
real response has no answer to compare with.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from ..data.functions import place_of, resolve_function
from ..errors import RecipeError, message_of, nearest
from . import scorers

Score = float | Mapping[str, float]
"""A scorer's result for a generated response: a number, or named numbers."""

Scorer = Callable[[str, str, str], Score]
"""A function called with the texts of a prompt, its real response and a generated one."""


def compared(expected: object | None, found: object | None) -> Score:
    """Return 1 if two answers are equal and 0 if not; an empty mapping if the real response has no answer."""
    return {} if expected is None else float(found == expected)


def scorer_names() -> list[str]:
    """Return the scorers that recipes can name: the modules of [`evaluation.scorers`]."""
    return sorted(module.name for module in pkgutil.iter_modules(scorers.__path__))


REGEX = "regex:"


def scorer_of(names: Sequence[str]) -> Scorer:
    """Return the scorer that a recipe names; for several, one that returns the numbers of all under their names.

    Args:
        names: names from [`scorer_names`], `regex:PATTERN` (1 if the pattern is found in the generated response), or
            `module:function`.

    Raises:
        RecipeError: if a name is unknown, a pattern is invalid, or a name occurs twice.
        DataError: if `module:function` names no function that can be imported.
    """
    named = {_short_name(name): _scorer_by_name(name) for name in names}
    if len(named) < len(names):
        raise RecipeError(f"`scorer` names a scorer twice: {', '.join(map(repr, names))}.")
    if len(names) == 1:
        return named[_short_name(names[0])]

    def score(prompt: str, real: str, generated: str) -> Score:
        together: dict[str, float] = {}
        for name, scorer in named.items():
            found = scorer(prompt, real, generated)
            if isinstance(found, Mapping):
                together |= {f"{name}.{part}": value for part, value in found.items()}
            else:
                together[name] = found
        return together

    return score


def figures_of(names: Sequence[str]) -> list[str] | None:
    """Return the figures that scorers yield, as [`scorer_of`] names them; None if only calling them would tell.

    Args:
        names: names as for [`scorer_of`].
    """
    known = scorer_names()
    if not all(name in known or name.startswith(REGEX) for name in names):
        return None
    found = []
    for name in names:
        parts = getattr(_module_of(name), "NAMED_SCORES", [""]) if name in known else [""]
        found += [".".join(filter(None, [_short_name(name) if len(names) > 1 else "", part])) for part in parts]
    return [f"score/{name}" if name else "score" for name in found]


def score_of(scorer: Scorer, prompt: str, real: str, generated: str) -> Score:
    """Return a scorer's result as numbers, with NaN for anything that is not a number.

    Raises:
        RecipeError: if it fails, or returns a name that can't be written; the message says for which texts.
    """
    called_with = (
        f"the prompt {prompt[:60]!r}, the real response {real[:60]!r} and the generated one {generated[:60]!r}"
    )
    try:
        found = scorer(prompt, real, generated)
    except (Exception, SystemExit) as error:  # the user's own code
        said = f"{type(error).__name__}: {message_of(error)}{place_of(error)}"
        raise RecipeError(f"The scorer fails with {said}. It was called with {called_with}.") from error
    if not isinstance(found, Mapping):
        return _number(found)
    scores = {str(name): _number(value) for name, value in found.items()}
    try:
        "".join(scores).encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"The scorer returned numbers named {reprlib.repr(list(scores))} for {called_with}; expected names that can be "
            "written in UTF-8."
        ) from error
    return scores


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # it may be anything
    except Exception:  # objects of the user's own classes may raise anything
        return math.nan


def _short_name(name: str) -> str:
    """Return a scorer's name in figures: for a pattern, the pattern; for a function, the function's name."""
    return name.removeprefix(REGEX) if name.startswith(REGEX) else name.rpartition(":")[2]


def _scorer_by_name(name: str) -> Scorer:
    known = scorer_names()
    if name in known:
        scorer: Scorer = getattr(_module_of(name), name)
        return scorer
    if name.startswith(REGEX):
        try:
            pattern = re.compile(name.removeprefix(REGEX))
        except re.error as error:
            raise RecipeError(f"`scorer` is {name!r}, but the pattern can't be read: {error}.") from error
        return lambda prompt, real, generated: float(pattern.search(generated) is not None)
    if ":" in name:
        return resolve_function(name)
    near = nearest(name, known)
    raise RecipeError(
        f"`scorer` is {name!r}; known are {', '.join(known)}, `regex:PATTERN` and `module:function`"
        f"{near.replace('; did', '. Did')}"
    )


def _module_of(name: str) -> ModuleType:
    return importlib.import_module(f"{scorers.__name__}.{name}")
