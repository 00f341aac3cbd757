"""A response is right if it equals the real one except for white space."""

from spin_trl.evaluation.scorers import exact_match


def test_an_exact_match_is_one_whatever_the_spaces() -> None:
    assert exact_match("", "a  b\n", " a b") == 1.0
    assert exact_match("", "a b", "ab") == 0.0
    assert exact_match("", "A", "a") == 0.0
