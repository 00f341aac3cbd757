"""A prompt is stored so that it can be converted back to messages."""

import pytest

from spin_trl.data.turns import TEMPLATED, TEXT_PROMPT, USER, kept_of


@pytest.mark.parametrize(
    ("prompt", "response", "options", "expected"),
    [
        ("text", "text", {}, TEXT_PROMPT),
        ([{"role": "user", "content": "a"}], {"role": "assistant", "content": "b"}, {}, USER),
        ([{"role": "system", "content": "a"}], {"role": "assistant", "content": "b"}, {},
         '[{"role": "system", "content": "a"}]'),
        ([{"role": "user", "content": "a"}], {"role": "assistant", "content": "b"}, {"tools": [{}]}, TEMPLATED),
        ([{"role": "user", "content": "a"}], {"role": "assistant", "content": None, "tool_calls": [1]}, {}, TEMPLATED),
        ([{"role": "user", "content": [{"type": "text"}]}], {"role": "assistant", "content": "b"}, {}, TEMPLATED),
    ],
)  # fmt: skip
def test_what_is_kept_of_a_prompt_is_what_it_takes_to_write_it_down(prompt, response, options, expected) -> None:
    assert kept_of(prompt, response, options) == expected
