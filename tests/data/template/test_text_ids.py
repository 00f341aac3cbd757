"""A long text is tokenised once, with the same ids as the tokenizer's own call."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

import tiny
from messages import refused
from spin_trl.data.template import pair_template, text_ids
from spin_trl.data.template.pair_template import EarlyEndError, PairTemplate, eos_token_ids
from spin_trl.data.template.text_ids import LONG, Cuts, GrowingIds, LeastIds
from spin_trl.errors import DataError
from trl_templates import TEMPLATES, family_tokenizer, generation_config

TEXT = " Ann paints 12 boats.\n\n  Émile:\t日本 🚤 don't"


def sentencepiece(scheme: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that turns spaces into `▁` and puts one before the text, without splitting off words first."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "prepended":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["Ann paints boats. don't"] * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def words() -> PreTrainedTokenizerFast:
    """Return a BERT-style tokenizer: lower case, no accents, an unknown word."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    backend.train_from_iterator(["ann paints a boat. don't"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")


def with_tokens(*tokens: AddedToken) -> Callable[[], PreTrainedTokenizerFast]:
    def build() -> PreTrainedTokenizerFast:
        tokenizer = tiny.tokenizer()
        for token in tokens:
            tokenizer.add_tokens([token], special_tokens=token.special)
        return tokenizer

    return build


def split_special() -> PreTrainedTokenizerFast:
    tokenizer = tiny.tokenizer()
    tokenizer.split_special_tokens = True
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": tiny.tokenizer,
    "a space before every piece": lambda: sentencepiece("always"),
    "a space before the first piece": lambda: sentencepiece("first"),
    "a space before the normalised text": lambda: sentencepiece("prepended"),
    "words": words,
    "a token that takes white space": with_tokens(
        AddedToken("<|im_end|>", special=True, normalized=False, lstrip=True),
        AddedToken("<r>", special=True, normalized=False, rstrip=True),
    ),
    "a token across another": with_tokens(AddedToken("x<|im_", special=False, normalized=False)),
    "a token that begins as another": with_tokens(AddedToken("<|im_end|> Ann", special=False, normalized=False)),
    "a token that is a word": with_tokens(AddedToken("Ann", special=True, normalized=False, single_word=True)),
    "a token of normalised text": with_tokens(AddedToken("<n>", special=True, normalized=True)),
    "a token that is white space": with_tokens(AddedToken("\n\n", special=True, normalized=False)),
    "special tokens are usual text": split_special,
}
PIECES = (
    *("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[SEP]", "<r>", "<n>", "x<|im_", "Ann", " ", "\n\n", "x"),
    *(TEXT, "<|im_", "end|>"),
)

every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


@every_tokenizer
@pytest.mark.parametrize("special", [True, False])
def test_a_long_text_has_the_ids_that_the_tokenizers_call_makes(name: str, special: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    text = "".join(random.Random(0).choices(PIECES, k=LONG // 5))
    assert len(text) > LONG

    assert (
        text_ids.text_ids(tokenizer, text, special=special) == tokenizer(text, add_special_tokens=special)["input_ids"]
    )


@every_tokenizer
def test_a_text_is_cut_only_where_both_parts_have_its_ids(name: str) -> None:
    """This holds for any added tokens, and wherever a growing text ends."""
    tokenizer, rng = TOKENIZERS[name](), random.Random(1)
    cuts = Cuts(tokenizer)

    for _ in range(20):
        ids_of, text = GrowingIds(cuts), ""
        for _ in range(8):
            text += "".join(rng.choices(PIECES, k=3))
            assert ids_of(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
            assert ids_of.count(text) == len(ids_of(text))


@pytest.mark.parametrize("name", ["byte-level", "a space before the first piece", "words"])
def test_a_text_is_cut_before_its_last_special_token(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    text = f"Ann{tokenizer.eos_token}paints{tokenizer.eos_token}boats"
    assert Cuts(tokenizer).last(text, 0) == text.rindex(str(tokenizer.eos_token))


def test_a_tokenizer_with_a_call_of_its_own_is_called() -> None:
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
            return super()._encode_plus(text.upper(), *args, **kwargs)

    tokenizer = Shouting(tokenizer_object=tiny.tokenizer().backend_tokenizer)
    text = TEXT * (LONG // len(TEXT) + 1)

    assert text_ids.text_ids(tokenizer, text) == text_ids.text_ids(tiny.tokenizer(), text.upper())
    assert Cuts(tokenizer).last("Ann<|im_end|>", 0) == 0


@pytest.fixture
def characters(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of characters tokenised at a time."""
    found, before = [], text_ids.text_ids

    def counting(tokenizer: Any, text: str, **options: Any) -> list[int]:
        found.append(len(text))
        return before(tokenizer, text, **options)

    for module in (text_ids, pair_template):
        monkeypatch.setattr(module, "text_ids", counting)
    return found


LINE = TEXT * (2 * LONG // len(TEXT))


@pytest.mark.parametrize(("prompt", "answer"), [(LINE, "A boat."), ("Ann?", LINE), (LINE, LINE)])
def test_long_messages_are_tokenised_once(prompt: str, answer: str, characters: list[int]) -> None:
    tokenizer = tiny.tokenizer()
    template = PairTemplate(tokenizer)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    characters.clear()

    found = template.encode(messages[:1], messages[1])

    assert sum(characters) < 1.01 * len(prompt + answer)
    start = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer(start + answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert found.prompt_ids + found.real_ids == whole


def test_a_few_long_answers_are_tokenised_once(characters: list[int]) -> None:
    messages = [{"role": ("user", "assistant")[number % 2], "content": LINE[: LONG // 2]} for number in range(8)]
    template = PairTemplate(tiny.tokenizer())
    alone = [template.encode(messages[:position], messages[position]) for position in (1, 3, 5, 7)]
    characters.clear()

    assert list(template.encode_answers(messages, [1, 3, 5, 7])) == alone
    # The first answer is short, so it is tokenised both with and without its prompt.
    assert sum(characters) < 1.01 * (LONG // 2) * (8 + 2)


def test_of_a_text_whose_prompt_is_too_long_no_more_is_tokenised(characters: list[int]) -> None:
    template = PairTemplate(tiny.tokenizer())
    characters.clear()

    assert template.encode_text(LINE, "A boat.", too_long=100) is None
    assert sum(characters) < 1.01 * len(LINE)
    with refused(EarlyEndError, "<|im_end|>"):
        template.encode_text(LINE, "A boat.<|im_end|> And more.", too_long=100)


@pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_long_messages_have_the_tokens_of_short_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for every template, whether or not its text can be cut."""
    tokenizer = family_tokenizer(path)
    template = PairTemplate(tokenizer, eos_token_ids(tokenizer, generation_config(path, tokenizer)))
    messages = [{"role": ("user", "assistant")[number % 2], "content": f"{number}{TEXT}"} for number in range(6)]

    def encoded() -> list[Any]:
        return list(template.encode_answers(messages, [1, 3, 5]))

    expected = encoded()
    for module in (text_ids, pair_template):
        monkeypatch.setattr(module, "LONG", 0)
    assert encoded() == expected


@pytest.mark.parametrize("repeats", [1, LONG])
def test_a_text_that_can_not_be_tokenised_is_named(repeats: int) -> None:
    """`tokenizers` raises a bare exception for a word outside the vocabulary if there is no unknown token."""
    backend = Tokenizer(models.WordPiece({"a": 0, "</s>": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert text_ids.text_ids(tokenizer, "a a") == [0, 0]
    with refused(DataError, "'zebra", "[UNK]"):
        text_ids.text_ids(tokenizer, "zebra " * repeats)


def test_a_text_has_at_least_as_many_ids_as_its_length_says() -> None:
    """The bound is reached by the longest token, and unknown for a short text."""
    tokenizer = tiny.tokenizer()
    longest = max(tokenizer.get_vocab(), key=len)
    rng = random.Random(0)
    texts = [
        longest * (LONG // len(longest) + 1),
        " " * LONG,
        "é日🚤" * LONG,
        "".join(rng.choices(TEXT + longest, k=2 * LONG)),
    ]
    for text in texts:
        found = LeastIds(tokenizer).of(text)
        assert 0 < found <= len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert LeastIds(tokenizer).of(texts[0]) == -(-len(texts[0]) // len(longest))
    assert LeastIds(tokenizer).of(texts[0][: LONG - 1]) == 0


@pytest.mark.parametrize("other", [words, lambda: sentencepiece("prepended"), lambda: sentencepiece("always")])
def test_nothing_is_known_where_ids_may_not_stand_for_all_characters(
    other: Callable[[], PreTrainedTokenizerFast],
) -> None:
    assert LeastIds(other()).of("x" * LONG) == 0


def test_nor_where_a_token_takes_the_space_around_it() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<wide>", rstrip=True)]})
    assert LeastIds(tokenizer).of(" " * LONG) == 0


def test_a_prompt_that_is_surely_too_long_is_not_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its response is still checked, and a prompt that may fit is tokenised."""
    tokenizer = tiny.tokenizer()
    template, book = PairTemplate(tokenizer), "word " * 2_000_000
    real, longest = pair_template.text_ids, []

    def recorded(tokenizer: Any, text: str, **options: Any) -> list[int]:
        longest.append(len(text))
        return real(tokenizer, text, **options)

    monkeypatch.setattr(pair_template, "text_ids", recorded)
    monkeypatch.setattr(text_ids, "text_ids", recorded)
    assert template.encode_text(book, " yes", too_long=64) is None
    messages = [{"role": "user", "content": book}, {"role": "assistant", "content": "yes"}]
    assert list(template.encode_answers(messages, [1], too_long=64)) == [None]
    assert max(longest) < LONG
    with refused(EarlyEndError):
        template.encode_text(book, f" y{tokenizer.eos_token} es", too_long=64)
    assert template.encode_text(book[:LONG], " yes", too_long=10**9) is not None
    assert max(longest) > LONG
