"""What the judge was asked and replied: a file in the run directory, so that nothing is asked twice and caps hold for a run.

It has one line for each request that was made, unless the endpoint was too busy to take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..files import json_digest
from ..json_lines import DamagedLineError, JsonLines
from .prompts import PROMPT_VERSION, Question

MOST_REPLIES = 3
"""Replies to a question, all invalid, after which it is left without a verdict."""


@dataclass(frozen=True)
class JudgedWith:
    """What all questions to a judge have in common, apart from their texts.

    Attributes:
        model: name of the model, as the endpoint knows it.
        sampling: settings of sampling.
        rubric: digest of the rubric.
        url: address of the endpoint, which is recorded, but is not part of a question's key.
    """

    model: str
    sampling: dict[str, Any]
    rubric: str
    url: str

    def key(self, question: Question) -> str:
        """Return the key of a question: the same for the same model, settings, rubric, and texts in their order."""
        same = [self.model, self.sampling, self.rubric, PROMPT_VERSION, question.kind, *question.texts]
        return json_digest(same, 32)


@dataclass(frozen=True)
class Spent:
    """Requests that were made to a judge, and tokens that they took, in and out."""

    requests: int = 0
    tokens: int = 0


class JudgeRecords:
    """The file of a judge's replies. Several processes may write it.

    Args:
        path: path of the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path, _wrong_line, is_synced=False)
        self._seen = 0
        self._verdicts: dict[str, dict[str, Any]] = {}
        self._invalid: dict[str, int] = {}
        self._rubrics: set[str] = set()
        self._spent = Spent()

    def read(self) -> None:
        """Read what has been added to the file.

        Raises:
            RunDirectoryError: if the file is damaged.
        """
        try:
            lines = self._lines.read()
        except DamagedLineError as error:
            raise RunDirectoryError(
                f"{error}. The replies of the judge are stored there. Move the file away to ask again for what it has."
            ) from error
        if len(lines) < self._seen:
            self._seen, self._verdicts, self._invalid, self._rubrics, self._spent = 0, {}, {}, set(), Spent()
        for line in lines[self._seen :]:
            self._rubrics.add(line["rubric"])
            if line["verdict"] is not None:
                self._verdicts[line["key"]] = line["verdict"]
            elif line["reply"] is not None:
                self._invalid[line["key"]] = self._invalid.get(line["key"], 0) + 1
            self._spent = Spent(self._spent.requests + 1, self._spent.tokens + line["tokens"])
        self._seen = len(lines)

    def verdict(self, key: str) -> dict[str, Any] | None:
        """Return the verdict on a question, as far as [`JudgeRecords.read`] knows; None if there is none."""
        return self._verdicts.get(key)

    def is_given_up(self, key: str) -> bool:
        """Return whether a question has had so many invalid replies that it is not asked again."""
        return self.invalid(key) >= MOST_REPLIES

    def invalid(self, key: str) -> int:
        """Return the number of invalid replies to a question."""
        return self._invalid.get(key, 0)

    def rubrics(self) -> set[str]:
        """Return the digests of all rubrics in the file."""
        return set(self._rubrics)

    def spent(self) -> Spent:
        """Return what all requests in the file have taken."""
        return self._spent

    def add(
        self,
        key: str,
        asked: JudgedWith,
        question: Question,
        *,
        reply: str | None,
        verdict: dict[str, Any] | None,
        tokens: int,
        why: str | None = None,
    ) -> None:
        """Append a request.

        Args:
            key: key of the question.
            asked: model, settings and rubric.
            question: the question.
            reply: text of the reply; None if there was no answer.
            verdict: the verdict; None if there was no valid one.
            tokens: tokens that the request took, as the endpoint counts them, or an estimate.
            why: what was wrong, without a verdict.

        Raises:
            OSError: if the disk is full.
        """
        self._lines.append(
            {
                "key": key,
                "kind": question.kind,
                "model": asked.model,
                "url": asked.url,
                "sampling": asked.sampling,
                "rubric": asked.rubric,
                "prompt_version": PROMPT_VERSION,
                "reply": reply,
                "verdict": verdict,
                "tokens": tokens,
                **({} if why is None else {"why": why}),
            }
        )
        self.read()


def _wrong_line(line: dict[str, Any]) -> str | None:
    """Return what is wrong with a line of the file."""
    fields = (("key", str), ("kind", str), ("rubric", str), ("tokens", int))
    wrong = next((name for name, kind in fields if not isinstance(line.get(name), kind)), None)
    if wrong is None and not isinstance(line.get("verdict"), dict | None):
        wrong = "verdict"
    if wrong is None and not isinstance(line.get("reply"), str | None):
        wrong = "reply"
    return None if wrong is None else f"`{wrong}` is not what the judge's file has there"
