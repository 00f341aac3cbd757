"""A tokenizer's identity covers everything that affects the ids of a text, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny
from spin_trl.data.template.identity import tokenizer_identity


def with_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END_OF_TEXT} $A", special_tokens=[(tiny.END_OF_TEXT, 0)]
    )


DIFFERENT: dict[str, Callable[[PreTrainedTokenizerFast], object]] = {
    "normaliser": lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
    "split rules": lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Whitespace()),
    "added token": lambda t: t.add_tokens(["<|think|>"]),
    "special token": lambda t: t.add_special_tokens({"bos_token": tiny.IM_START}),
    "EOS": lambda t: t.add_special_tokens({"eos_token": tiny.END_OF_TEXT}),
    "BOS before text": with_bos,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_whatever_decides_ids_is_part_of_it(name: str) -> None:
    changed = tiny.tokenizer()
    DIFFERENT[name](changed)
    assert tokenizer_identity(changed) != tokenizer_identity(tiny.tokenizer())


ALIKE: dict[str, Callable[[PreTrainedTokenizerFast], object]] = {
    "padding side": lambda t: setattr(t, "padding_side", "left"),
    "pad token": lambda t: t.add_special_tokens({"pad_token": tiny.IM_START}),
    "padding in use": lambda t: t(["a", "a b c"], padding=True),
    "truncation in use": lambda t: t("a b c", truncation=True, max_length=2),
    "length": lambda t: setattr(t, "model_max_length", 7),
    "template": lambda t: setattr(t, "chat_template", "{{ messages }}"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_does_not_decide_ids_is_not(name: str) -> None:
    changed = tiny.tokenizer()
    ALIKE[name](changed)
    assert tokenizer_identity(changed) == tokenizer_identity(tiny.tokenizer())


def test_a_tokenizer_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path / "a")
    tiny.tokenizer().save_pretrained(tmp_path / "b")
    found = [tokenizer_identity(AutoTokenizer.from_pretrained(tmp_path / name)) for name in ("a", "b")]
    assert found[0] == found[1] == tokenizer_identity(tiny.tokenizer())
