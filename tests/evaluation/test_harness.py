"""Processes share a benchmark's requests: each answers some and gets every answer, and if one fails, all do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from messages import names, refused
from spin_trl.errors import BenchmarkError

pytest.importorskip("lm_eval", reason="lm-evaluation-harness, an optional extra, is not installed")

from spin_trl.evaluation import harness

REQUESTS = [
    SimpleNamespace(doc_id=doc, text=text)
    for doc, text in ((0, "a"), (0, "b"), (1, "c"), (2, "d"), (3, "e"), (1, "f"))
]
"""The choices of a question share its number."""


def of_process(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, others: list[Any] | None = None) -> None:
    """Act as one of several processes, with the given results gathered from the others."""
    monkeypatch.setattr(
        harness,
        "PartialState",
        lambda: SimpleNamespace(num_processes=count, process_index=rank, is_main_process=rank == 0),
    )
    monkeypatch.setattr(harness, "gather_object", lambda mine: [*mine, *(others or [])])


def shout(asked: list[str]) -> Any:
    """Return answers in capitals, and record the requests."""

    def answer(requests: Any, disable_tqdm: bool) -> list[str]:
        asked.extend(one.text for one in requests)
        return [one.text.upper() for one in requests]

    return answer


def test_a_process_answers_its_questions_with_all_their_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, one answers questions 0 and 2, the other 1 and 3; together they have everything, in order."""
    shares: list[list[str]] = []
    for rank in (0, 1):
        asked: list[str] = []
        of_process(monkeypatch, rank, 2)
        monkeypatch.setattr(harness, "gather_object", lambda mine: mine if mine == [None] else [*mine, *others(mine)])

        def others(mine: list[tuple[int, str]]) -> list[tuple[int, str]]:
            known = {number for number, _ in mine}
            return [(n, one.text.upper()) for n, one in enumerate(REQUESTS) if n not in known]

        assert harness.shared(shout(asked), REQUESTS, True) == list("ABCDEF")
        shares.append(asked)
    assert shares == [["a", "b", "d"], ["c", "e", "f"]]


def test_a_process_without_a_share_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    of_process(monkeypatch, 3, 4, [(0, "A")])
    asked: list[str] = []
    monkeypatch.setattr(harness, "gather_object", lambda mine: mine if mine == [None] else [(0, "A")])
    assert harness.shared(shout(asked), REQUESTS[:1], True) == ["A"]
    assert asked == []


def test_what_fails_on_another_process_fails_here(monkeypatch: pytest.MonkeyPatch) -> None:
    of_process(monkeypatch, 0, 2, ["KeyError: 'gold'."])
    with refused(BenchmarkError, "KeyError", "'gold'"):
        harness.on_all(lambda: "fine here")


def test_what_fails_here_is_said_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    of_process(monkeypatch, 1, 2, [None])
    error = ZeroDivisionError("by nought")

    def fail() -> None:
        raise error

    with refused(BenchmarkError, "ZeroDivisionError", "by nought") as found:
        harness.on_all(fail)
    assert found.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("no memory"), "`--batch_size`"),
        (ModuleNotFoundError("No module named 'sacrebleu'"), "`pip install 'spin_trl[lm-eval]'`"),
        (ConnectionError("offline"), "`hf auth`"),
    ],
)
def test_what_often_goes_wrong_has_a_way_out(error: Exception, advice: str) -> None:
    assert names(harness._said(error), type(error).__name__, str(error), advice)
