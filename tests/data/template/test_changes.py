"""Changes that a tokenizer makes to a text are noted. `test_pair_template` tests whole rows, with more tokenizers."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from spin_trl.data import notes
from spin_trl.data.template.changes import Changes, text_of_ids


def of_letters(*, lower: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each of a few letters."""
    vocabulary = {"<unk>": 0, "<end>": 1} | {letter: 2 + number for number, letter in enumerate("abcd ")}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    if lower:
        backend.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>")


def unicode_forms() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer, which loses nothing, with Unicode compatibility normalisation."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text", "expected"),
    [
        (tiny.tokenizer(), "ﬁ 日本\n🚤", set()),
        (unicode_forms(), "plain", set()),
        (unicode_forms(), "ﬁ", {notes.NORMALISED}),
        (of_letters(), "ab cd", set()),
        (of_letters(), "abé", {notes.UNKNOWN_IN_TEXT}),
        (of_letters(), "a<unk>b", set()),
        (of_letters(lower=True), "Ab", {notes.NORMALISED}),
        (of_letters(lower=True), "Abé", {notes.NORMALISED, notes.UNKNOWN_IN_TEXT}),
    ],
)
def test_what_is_changed_is_noted(tokenizer: PreTrainedTokenizerFast, text: str, expected: set[str]) -> None:
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert Changes(tokenizer, []).notes_on(ids, text, len(text)) == expected


def test_decoded_text_keeps_special_tokens_and_spaces() -> None:
    tokenizer = tiny.tokenizer()
    ids = [*tokenizer(" don't , x")["input_ids"], tokenizer.eos_token_id]
    assert text_of_ids(tokenizer, ids) == f" don't , x{tokenizer.eos_token}"
