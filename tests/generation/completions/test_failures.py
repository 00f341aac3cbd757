"""Every failure is one of this package's errors, and carries what a caller acts on."""

import pytest

from spin_trl.errors import SpinError
from spin_trl.generation.completions.failures import (
    CompletionsError,
    CutAnswerError,
    MalformedAnswerError,
    MissingModelError,
    NoEndpointError,
    PassingFailureError,
    RefusedRequestError,
)


def test_facts_are_attributes():
    busy = PassingFailureError("x", status=429, is_busy=True, retry_after=2.0)
    assert (busy.status, busy.is_busy, busy.reached, busy.retry_after) == (429, True, True, 2.0)
    assert RefusedRequestError("x", 404).status == 404
    assert MissingModelError("x", ["a"]).served == ["a"]
    assert NoEndpointError("x", {"http://a": "y"}).failures == {"http://a": "y"}


@pytest.mark.parametrize("kind", [CutAnswerError, MalformedAnswerError, CompletionsError])
def test_they_are_shown_without_a_traceback(kind):
    error = kind("a\x00b")
    assert isinstance(error, SpinError)
    assert isinstance(error, RuntimeError)
    assert (error.exit_code, str(error)) == (1, "a␀b")


def test_a_cut_answer_is_a_malformed_one():
    assert issubclass(CutAnswerError, MalformedAnswerError)
