"""Prompts and responses are split by where their texts come from."""

import tiny
from spin_trl.play.first_steps.pieces import Limit, decoded_text, in_pieces


def test_pieces_join_to_the_text_and_say_where_it_comes_from() -> None:
    tokenizer = tiny.tokenizer()
    prompt, response = (tokenizer(text)["input_ids"] for text in ("<|im_start|>user\nWhich?", " red boat<|im_end|>"))
    whole = decoded_text(tokenizer, [*prompt, *response])
    own = [(start, start + len(text)) for text in ("Which?", "red boat") if (start := whole.find(text)) >= 0]
    pieces, is_traced = in_pieces(tokenizer, prompt, response, Limit(len(prompt) + 1), whole, own)
    assert is_traced
    assert "".join(piece.text for piece in pieces) == whole
    assert "".join(piece.text for piece in pieces if not piece.is_added) == "Which?red boat"
    assert [piece.text for piece in pieces if piece.is_special] == ["<|im_start|>", "<|im_end|>"]
    assert "".join(piece.text for piece in pieces if not piece.is_cut) == decoded_text(
        tokenizer, [*prompt, *response[:1]]
    )
    _, is_traced = in_pieces(tokenizer, prompt, response, Limit(None), "another text", [(0, 5)])
    assert not is_traced


def test_a_limit_counts_what_is_beyond_it() -> None:
    assert [Limit(most).beyond(7) for most in (None, 9, 7, 5)] == [0, 0, 0, 2]
