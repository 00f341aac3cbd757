"""A response is right if it is JSON from its first character to its last."""

from spin_trl.evaluation.scorers import valid_json


def test_json_is_the_whole_response() -> None:
    assert valid_json("", "", '{"a": [1, 2]}') == 1.0
    assert valid_json("", "", ' "text" ') == 1.0
    assert valid_json("", "", 'Here: {"a": 1}') == 0.0
    assert valid_json("", "", "{'a': 1}") == 0.0
    assert valid_json("", "", "") == 0.0
    assert valid_json("", "", "[" * 5000) == 0.0
