"""DPOTrainer's tokens of a pair are compared with those that self-play would produce for the same text."""

import pytest

import tiny
from messages import names
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.training.pair_ends import difference_in_ends, tokens_of_dpo

NEWLINE_INSIDE = tiny.CHATML.replace("{{ '<|im_end|>\\n' }}{%- endfor %}", "{{ '<|im_end|>' }}{%- endfor %}")
"""ChatML that writes nothing after the end of a turn."""


@pytest.mark.parametrize("implicit_prompt", [False, True])
def test_text_ends_alike(implicit_prompt: bool) -> None:
    tokenizer = tiny.tokenizer()
    assert difference_in_ends(tiny.preference(4, False, implicit_prompt), tokenizer, PairTemplate(tokenizer)) is None


@pytest.mark.parametrize("implicit_prompt", [False, True])
def test_what_a_template_writes_after_the_turn_is_named(implicit_prompt: bool) -> None:
    """ChatML's newline after <|im_end|> is a token of DPOTrainer's responses, which no generation ever has."""
    tokenizer = tiny.tokenizer()
    found = difference_in_ends(tiny.preference(4, True, implicit_prompt), tokenizer, PairTemplate(tokenizer))
    assert found is not None
    assert names(found, "DPOTrainer", r"'\n'", "pair 0")
    assert tokens_of_dpo(tiny.preference(1, True), tokenizer)["chosen_ids"][0][-1] != tokenizer.eos_token_id


def test_a_template_that_ends_with_the_turn_differs_in_nothing() -> None:
    assert NEWLINE_INSIDE != tiny.CHATML
    tokenizer = tiny.tokenizer(chat_template=NEWLINE_INSIDE)
    assert difference_in_ends(tiny.preference(2, True), tokenizer, PairTemplate(tokenizer)) is None
