"""A tokenizer is built from a dataset's own texts, with bytes or characters, EOS, padding and turns."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spin_trl.config.start import StartConfig
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.training.scratch import END, TURN, TURN_END, build_tokenizer

SMALL: dict[str, Any] = {"start_vocab_size": 300}


@pytest.mark.parametrize("text", ["Ann paints a red boat.", "naïve – 日本 🙂\n\ttab  two spaces ", "<|im_start|> no"])
def test_bytes_encode_any_text(text: str) -> None:
    """A byte-level vocabulary reproduces every text exactly, seen or not."""
    tokenizer = build_tokenizer(iter(["red boat"] * 9), StartConfig(**SMALL), 64)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 300


def characters(*texts: str, chats: bool) -> PreTrainedTokenizerBase:
    """Return a `char` tokenizer trained on these texts."""
    return build_tokenizer(iter(texts), StartConfig(**SMALL, start_tokenizer="char"), 64, chats=chats)


def test_characters_are_one_token_each() -> None:
    """The vocabulary has the characters of the data and the three special tokens, and nothing else."""
    tokenizer = characters("abc b", "cd", chats=False)
    assert sorted(set(tokenizer.get_vocab()) - {END, TURN, TURN_END}) == [" ", "a", "b", "c", "d"]
    ids = tokenizer("dab c")["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids) == "dab c"


def test_a_character_that_was_not_seen_does_not_end_the_text() -> None:
    """It becomes the unknown token, which is not EOS, and the text after it is kept."""
    tokenizer = characters("abcd", chats=False)
    ids = tokenizer("b\u00e9cd")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["b", tokenizer.unk_token, "c", "d"]
    assert tokenizer.unk_token_id not in (None, tokenizer.eos_token_id)


def test_characters_of_plain_text_end_with_eos_alone() -> None:
    """No plain-text response has the end of a turn, so a sampled one does not end an answer."""
    tokenizer = characters("abcd", chats=False)
    assert tokenizer.chat_template is None
    assert PairTemplate(tokenizer).eos_ids == [tokenizer.convert_tokens_to_ids(END)]


def test_characters_of_conversations_have_tokens_for_what_the_template_writes() -> None:
    """These are roles and line breaks, which may occur in no message of the data; the end of a turn also ends an answer."""
    tokenizer = characters("abcd", chats=True)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert PairTemplate(tokenizer).eos_ids == tokenizer.convert_tokens_to_ids([END, TURN_END])


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_tokenizer_can_end_pad_and_chat(kind: str, tmp_path: Path) -> None:
    """It has EOS, padding, and a chat template whose turn marks are single tokens; all of it survives saving."""
    texts = ["user assistant system hello there\n"]
    build_tokenizer(iter(texts), StartConfig(**SMALL, start_tokenizer=kind), 64).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token == tokenizer.pad_token == END
    assert tokenizer.model_max_length == 64
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokenizer.decode(ids) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.convert_tokens_to_ids(TURN)) == 2
