"""A long text is split between words, where its parts have the same ids as the whole."""

import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spin_trl.data.template import between_words
from spin_trl.data.template.between_words import split
from spin_trl.data.template.text_ids import LONG, text_ids

PIECES = (
    "Ann",
    " paints",
    " a",
    " boat",
    "'s",
    " don't",
    " 12",
    "3",
    ".",
    "\n\n",
    "  ",
    " é",
    "日本",
    " 🚤",
    "\t",
    " e\u0301",
)
"""Texts whose ids are learned and of which long texts are made."""

LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers split a text."""


def built(
    pre: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with special tokens around a text, that splits a text in a certain way."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre
    if normalizer is not None:
        backend.normalizer = normalizer
    rng = random.Random(0)
    texts = ["".join(rng.choices(PIECES, k=30)) for _ in range(50)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def byte_level(**options: bool) -> PreTrainedTokenizerFast:
    return built(pre_tokenizers.ByteLevel(**{"add_prefix_space": False} | options))


def letters(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    pre = pre_tokenizers.Split(Regex(LETTERS), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return built(pre_tokenizers.Sequence([pre, bytes_of]), normalizer)


def with_token(token: AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.add_tokens([token])
    return tokenizer


SPLIT: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "GPT-2's way": byte_level,
    "Qwen's way": lambda: letters(normalizers.NFC()),
    "digits first": lambda: built(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "a space before a text": lambda: byte_level(add_prefix_space=True),
    "a token that is a word": lambda: with_token(AddedToken("Ann", single_word=True)),
    "a token that ends as a word": lambda: with_token(AddedToken("nts")),
}
WHOLE: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "no pieces": lambda: byte_level(use_regex=False),
    "two words in a piece": lambda: built(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
    "a normaliser that replaces": lambda: letters(normalizers.Replace("t a", "ta")),
    "a token of two words": lambda: with_token(AddedToken("paints a")),
    "a token that takes white space": lambda: with_token(AddedToken("boat", rstrip=True)),
}


def long_text(seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(PIECES, k=LONG // 2))


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_words, "PART", 50)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", [*SPLIT, *WHOLE])
def test_the_ids_are_those_of_the_tokenizers_call(name: str, special: bool) -> None:
    tokenizer, text = {**SPLIT, **WHOLE}[name](), long_text()
    assert text_ids(tokenizer, text, special=special) == tokenizer(text, add_special_tokens=special)["input_ids"]


@pytest.mark.parametrize("name", SPLIT)
def test_a_text_is_split_between_words(name: str) -> None:
    tokenizer, text = SPLIT[name](), long_text()
    parts = split(tokenizer, text)
    assert "".join(parts) == text
    assert len(text) / 400 < len(parts) <= len(text) / 50
    assert all(len(part) >= 50 for part in parts)
    assert all(part[0] == " " and part[1].isalpha() for part in parts[1:])


@pytest.mark.parametrize("name", WHOLE)
def test_a_text_stays_whole_if_its_parts_may_have_other_ids(name: str) -> None:
    text = long_text()
    assert split(WHOLE[name](), text) == [text]


def test_a_text_without_words_or_a_short_one_stays_whole() -> None:
    tokenizer = byte_level()
    for text in ("日本" * LONG, "Ann paints " * 9, "a" * LONG, ""):
        assert split(tokenizer, text) == [text]
