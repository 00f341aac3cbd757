"""Compute is counted in tokens: trained ones count three times, those of a forward pass once."""

from spin_trl.run.compute import Compute, compute_of


def test_a_trained_token_counts_as_three_forward_passes() -> None:
    """3 x 10 + 4 + 5 + 6 = 45."""
    assert Compute(trained=10, scored=4, prefilled=5, sampled=6).total == 45


def test_entries_add_up_and_those_without_counts_are_left_out() -> None:
    entries = [{"compute": {"trained": 10}}, {"seconds": 3.0}, {"compute": {"sampled": 2, "prefilled": 7}}]
    assert compute_of(entries) == Compute(trained=10, prefilled=7, sampled=2)
    assert compute_of([{"seconds": 3.0}]) is None


def test_a_journal_entry_holds_what_was_counted() -> None:
    assert Compute(trained=10, sampled=2).as_entry() == {"compute": {"trained": 10, "sampled": 2}}
    assert compute_of([Compute(scored=3).as_entry()]) == Compute(scored=3)
