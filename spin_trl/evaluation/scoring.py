"""Scorers: rule-based scores of generated responses, for tasks with one right answer.

A recipe names one scorer (`scorer: gsm8k`) or several; `module:function` names the user's own. A scorer is called with the
texts of a prompt, its real response and a generated one, and returns a number or named numbers, or an empty mapping if the
real response has no answer to compare with. Its further parameters are columns of the held-out data, which it gets by name,
like TRL's reward functions.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from ..data.functions import place_of, resolve_function
from ..errors import IsolationError, RecipeError, message_of, nearest
from . import scorers
from .isolation.probe import probe_layers
from .isolation.room import Room
from .rubric import Rubric

Score = float | Mapping[str, float]
"""A scorer's result for a generated response: a number, or named numbers."""

Scorer = Callable[..., Score]
"""A function called with the texts of a prompt, its real response and a generated one, and with columns by name."""

JUDGE = "judge"
"""Name of the scorer that asks a model at an endpoint. It is made above this folder, see [`Permission`]."""

_NUMBER_OF_TEXTS = 3
"""Number of texts that every scorer is called with."""


@dataclass(frozen=True)
class AnswerToScore:
    """An answer, with what a scorer is called with.

    Attributes:
        prompt, real, generated: texts of a prompt, its real response and a generated one.
        columns: columns of the row that the scorer takes.
    """

    prompt: str
    real: str
    generated: str
    columns: Mapping[str, Any]


class ManyAtOnce:
    """A scorer that can score many answers at the same time, in addition to one when it is called.

    Attributes:
        is_named_alone: whether its figures have its name even if it is the only scorer.
    """

    is_named_alone = False

    def score_many(self, items: Sequence[AnswerToScore], report: Callable[[int], object]) -> list[Score]:
        """Return the scores of answers, in their order.

        Args:
            items: the answers.
            report: function that is called with the number of answers that are done.
        """
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """Return for the journal what a reader of the scores must know."""
        return {}


@dataclass(frozen=True)
class Permission:
    """What a recipe allows to scorers that run generated code.

    Attributes:
        generated_code: whether they may run it at all (`allow_generated_code`).
        unisolated_code: whether also without the layers of isolation that are needed (`allow_unisolated_code`).
        make_judge: function that makes the scorer `judge`; None where answers can't be judged.
    """

    generated_code: bool = False
    unisolated_code: bool = False
    make_judge: Callable[[], Scorer] | None = None

    def judge(self) -> Scorer:
        """Return the scorer `judge`.

        Raises:
            RecipeError: if the recipe does not describe a judge, or there can be none here.
        """
        if self.make_judge is None:
            raise RecipeError(
                "`scorer: judge` asks a model at an endpoint, which only a run can do. Name another scorer."
            )
        return self.make_judge()

    def room(self, scorer: str) -> Room:
        """Return the room that a scorer may run generated code in.

        Args:
            scorer: name of the scorer, for messages.

        Raises:
            RecipeError: if the recipe does not allow it, or the machine lacks layers of isolation.
        """
        if not self.generated_code:
            raise RecipeError(
                f"`scorer: {scorer}` runs code that the model writes. To allow that, set `allow_generated_code: true`."
            )
        return probe_layers().room(allow_unisolated=self.unisolated_code)


@dataclass(frozen=True)
class ScorerColumns:
    """The columns of held-out data that a scorer is called with.

    Attributes:
        required: columns that it can't be called without.
        optional: columns that it is called with if the data has them.
        others: names of its own that no column can be passed as; None if it takes no columns that it does not name.
    """

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    others: frozenset[str] | None = None

    @property
    def named(self) -> frozenset[str]:
        """All columns that it names."""
        return self.required | self.optional

    def among(self, columns: Collection[str]) -> list[str]:
        """Return those columns, of data that has these, in the data's order."""
        return [
            name for name in columns if name in self.named or (self.others is not None and name not in self.others)
        ]


class SeveralScorers(ManyAtOnce):
    """Several scorers in one, which returns the numbers of all under their names.

    Args:
        scorers: scorers by name.
    """

    def __init__(self, scorers: Mapping[str, Scorer]) -> None:
        self.scorers = scorers

    def __call__(self, prompt: str, real: str, generated: str, **columns: Any) -> Score:
        """Return the numbers of all scorers; those of named ones as `SCORER.NAME`."""
        together: dict[str, float] = {}
        for name, scorer in self.scorers.items():
            own = {column: columns[column] for column in columns_of(scorer).among(columns)}
            together |= _under_name(name, scorer(prompt, real, generated, **own))
        return together

    def score_many(self, items: Sequence[AnswerToScore], report: Callable[[int], object]) -> list[Score]:
        """Return for each answer the numbers of all scorers, as when it is called."""
        together: list[dict[str, float]] = [{} for _ in items]
        for place, (name, scorer) in enumerate(self.scorers.items()):
            columns = columns_of(scorer)
            own = [
                replace(item, columns={column: item.columns[column] for column in columns.among(item.columns)})
                for item in items
            ]

            def report_all(done: int, before: int = place * len(items)) -> object:
                return report((before + done) // len(self.scorers))

            for numbers, found in zip(together, scores_of(scorer, own, report_all), strict=True):
                numbers |= _under_name(name, found)
        return [*together]

    def notes(self) -> dict[str, Any]:
        """Return the notes of all scorers."""
        every = [notes_on(one) for one in self.scorers.values()]
        return {name: value for notes in every for name, value in notes.items()}


def _under_name(name: str, score: Score) -> dict[str, float]:
    """Return one of several scorers' numbers under its name."""
    if not isinstance(score, Mapping):
        return {name: score}
    return {f"{name}.{part}" if part else name: value for part, value in score.items()}


def columns_of(scorer: Scorer) -> ScorerColumns:
    """Return the columns that a scorer takes: its parameters after the three texts, or all if it ends in `**`.

    A scorer whose columns depend on a setting has them as the attribute `columns`.
    """
    own = getattr(scorer, "columns", None)
    if isinstance(own, ScorerColumns):
        return own
    if isinstance(scorer, SeveralScorers):
        every = [columns_of(one) for one in scorer.scorers.values()]
        required = frozenset[str]().union(*(one.required for one in every))
        named = frozenset[str]().union(*(one.named for one in every))
        open_ended = [one.others for one in every if one.others is not None]
        others = frozenset.intersection(*open_ended) if open_ended else None
        return ScorerColumns(required, named - required, others)
    try:
        parameters = list(inspect.signature(scorer).parameters.values())
    except (TypeError, ValueError):  # a function written in C
        return ScorerColumns()
    by_place = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    texts = frozenset(one.name for one in by_place[:_NUMBER_OF_TEXTS])
    columns = [*by_place[_NUMBER_OF_TEXTS:], *(one for one in parameters if one.kind == one.KEYWORD_ONLY)]
    required = frozenset(one.name for one in columns if one.default is one.empty)
    takes_all = any(one.kind == one.VAR_KEYWORD for one in parameters)
    return ScorerColumns(required, frozenset(one.name for one in columns) - required, texts if takes_all else None)


def compared(expected: object | None, found: object | None) -> Score:
    """Return 1 if two answers are equal and 0 if not; an empty mapping if the real response has no answer."""
    return {} if expected is None else float(found == expected)


def scorer_names() -> list[str]:
    """Return the scorers without a model that recipes can name: the modules of [`evaluation.scorers`]."""
    return sorted(module.name for module in pkgutil.iter_modules(scorers.__path__))


REGEX = "regex:"


def scorer_of(names: Sequence[str], permission: Permission | None = None, rubric: Rubric | None = None) -> Scorer:
    """Return the scorer that a recipe names; for several, one that returns the numbers of all under their names.

    Args:
        names: names from [`scorer_names`], `judge`, `regex:PATTERN` (1 if the pattern is found in the generated response),
            or `module:function`.
        permission: what the recipe allows; None: nothing.
        rubric: the recipe's rubric, or None.

    Raises:
        RecipeError: if a name is unknown, a pattern is invalid, a name occurs twice, or a scorer needs a permission or a
            rubric.
        DataError: if `module:function` names no function that can be imported.
    """
    named = {_short_name(name): _scorer_by_name(name, permission or Permission(), rubric) for name in names}
    if len(named) < len(names):
        raise RecipeError(f"`scorer` names a scorer twice: {', '.join(map(repr, names))}.")
    only = named[_short_name(names[0])] if len(names) == 1 else None
    is_named = only is None or (isinstance(only, ManyAtOnce) and only.is_named_alone)
    return SeveralScorers(named) if only is None or is_named else only


def runs_generated_code(name: str) -> bool:
    """Return whether a scorer that a recipe can name runs generated code."""
    return name in scorer_names() and getattr(_module_of(name), "RUNS_GENERATED_CODE", False)


def layers_of(scorer: Scorer | None) -> list[str] | None:
    """Return the layers of isolation that generated code runs behind; None if a scorer runs none."""
    every = scorer.scorers.values() if isinstance(scorer, SeveralScorers) else [scorer]
    rooms = [room for one in every if isinstance(room := getattr(one, "room", None), Room)]
    return list(rooms[0].layers) if rooms else None


def takes_rubric(name: str) -> bool:
    """Return whether a scorer that a recipe can name scores by the recipe's rubric."""
    return name in scorer_names() and getattr(_module_of(name), "TAKES_RUBRIC", False)


def figures_of(
    names: Sequence[str], rubric: Rubric | None = None, judged: Sequence[str] | None = None
) -> list[str] | None:
    """Return the figures that scorers yield, as [`scorer_of`] names them; None if only calling them would tell.

    Args:
        names: names as for [`scorer_of`].
        rubric: the recipe's rubric, or None.
        judged: names of the criteria of the scorer `judge`, or None if they are not known.
    """
    known = scorer_names()
    if not all(name in known or name.startswith(REGEX) or (name == JUDGE and judged is not None) for name in names):
        return None
    found = []
    for name in names:
        parts: Sequence[str] = getattr(_module_of(name), "NAMED_SCORES", [""]) if name in known else [""]
        if takes_rubric(name):
            if rubric is None:
                return None
            parts = rubric.numbers
        if name == JUDGE:
            parts = ["", *(judged or ())]
        is_named = len(names) > 1 or name == JUDGE
        found += [".".join(filter(None, [_short_name(name) if is_named else "", part])) for part in parts]
    return [f"score/{name}" if name else "score" for name in found]


def score_of(
    scorer: Scorer, prompt: str, real: str, generated: str, columns: Mapping[str, Any] | None = None
) -> Score:
    """Return a scorer's result as numbers, with NaN for anything that is not a number.

    Args:
        scorer: the scorer.
        prompt, real, generated: texts of a prompt, its real response and a generated one.
        columns: columns of the row that the scorer takes.

    Raises:
        RecipeError: if it fails, or returns a name that can't be written; the message says for which texts.
    """
    called_with = (
        f"the prompt {prompt[:60]!r}, the real response {real[:60]!r} and the generated one {generated[:60]!r}"
    )
    try:
        found = scorer(prompt, real, generated, **(columns or {}))
    except IsolationError:
        raise
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


def scores_of(
    scorer: Scorer, items: Sequence[AnswerToScore], report: Callable[[int], object] = lambda done: None
) -> list[Score]:
    """Return a scorer's results for many answers, as numbers, in their order.

    Args:
        scorer: the scorer.
        items: the answers.
        report: function that is called with the number of answers that are done.

    Raises:
        RecipeError: as for [`score_of`].
    """
    if isinstance(scorer, ManyAtOnce):
        return scorer.score_many(items, report)
    found = []
    for done, item in enumerate(items, start=1):
        found.append(score_of(scorer, item.prompt, item.real, item.generated, item.columns))
        report(done)
    return found


def notes_on(scorer: Scorer | None) -> dict[str, Any]:
    """Return what a reader of a scorer's figures must know, as the journal records it; empty if there is nothing."""
    return scorer.notes() if isinstance(scorer, ManyAtOnce) else {}


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # it may be anything
    except Exception:  # objects of the user's own classes may raise anything
        return math.nan


def _short_name(name: str) -> str:
    """Return a scorer's name in figures: for a pattern, the pattern; for a function, the function's name."""
    return name.removeprefix(REGEX) if name.startswith(REGEX) else name.rpartition(":")[2]


def _scorer_by_name(name: str, permission: Permission, rubric: Rubric | None) -> Scorer:
    known = scorer_names()
    if name == JUDGE:
        return permission.judge()
    if name in known:
        found = getattr(_module_of(name), name)
        if takes_rubric(name):
            if rubric is None:
                raise RecipeError(f"`scorer: {name}` needs the setting `rubric`: a YAML file with criteria.")
            made: Scorer = found(rubric)
            return made
        scorer: Scorer = found(permission) if runs_generated_code(name) else found
        return scorer
    if name.startswith(REGEX):
        try:
            pattern = re.compile(name.removeprefix(REGEX))
        except re.error as error:
            raise RecipeError(f"`scorer` is {name!r}, but the pattern can't be read: {error}.") from error
        return lambda prompt, real, generated: float(pattern.search(generated) is not None)
    if ":" in name:
        return resolve_function(name)
    known = sorted([*known, JUDGE])
    near = nearest(name, known)
    raise RecipeError(
        f"`scorer` is {name!r}; known are {', '.join(known)}, `regex:PATTERN` and `module:function`"
        f"{near.replace('; did', '. Did')}"
    )


def _module_of(name: str) -> ModuleType:
    return importlib.import_module(f"{scorers.__name__}.{name}")
