"""What a request can take is set aside before it is sent, and what it has not taken is put back."""

import pytest

from spin_trl.judging.budget import Budget, estimated_tokens


def test_a_request_is_reserved_and_settled() -> None:
    budget = Budget(2, 1000)
    assert budget.reserve(600)
    assert not budget.reserve(600)
    assert budget.ended_by is None  # the first may give some back
    budget.settle(600, tokens=100)
    assert budget.reserve(600)
    assert (budget.requests, budget.tokens) == (0, 300)


@pytest.mark.parametrize(
    ("budget", "name"), [(Budget(0, 9), "judge_max_requests"), (Budget(9, 0), "judge_max_tokens")]
)
def test_the_cap_that_is_reached_is_named_and_ends_everything(budget: Budget, name: str) -> None:
    assert not budget.reserve(1)
    budget.requests = budget.tokens = 100
    assert not budget.reserve(1)
    assert budget.ended_by == name


def test_what_does_not_count_is_put_back() -> None:
    budget = Budget(1, 10)
    assert budget.reserve(10)
    budget.settle(10, tokens=0, requests=0)
    assert (budget.requests, budget.tokens, budget.reserved) == (1, 10, 0)


def test_tokens_are_estimated_from_bytes() -> None:
    assert estimated_tokens(b"") == 0
    assert estimated_tokens("ü".encode() * 3, b"a") == 3
