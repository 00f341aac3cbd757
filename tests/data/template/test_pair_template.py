"""One template, one end: prompts and real responses are tokenised as a generation would start and stop."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

import known_models
import tiny
from messages import refused
from spin_trl.config.iteration import SPINConfig
from spin_trl.data import notes
from spin_trl.data.load import load_rows
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import EarlyEndError, EncodedPair, PairTemplate, eos_token_ids
from spin_trl.errors import DataError, TemplateError
from spin_trl.generation.engine import Response, Sampling
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore, Manifest
from spin_trl.training.collator import DataCollatorForSelfPlay
from spin_trl.training.pairs import pair
from trl_templates import SPECIAL, TEMPLATES, conversation, family_of, family_tokenizer, generation_config, options_of

# ---- every chat template that TRL ships ---------------------------------------------------------------------------------

ANSWER = "A red boat."
ANSWERS = (ANSWER, "1", "\n Two lines,\n\nand more. ", "Émile: 日本 🚤", "<b>{{ x }}</b>", "User: no, you!")


def published(path: Path) -> tuple[PreTrainedTokenizerFast, PairTemplate]:
    """Return a template with the tokenizer and EOS ids that its models publish."""
    tokenizer = family_tokenizer(path)
    ids = eos_token_ids(tokenizer, generation_config(path, tokenizer))
    return tokenizer, PairTemplate(tokenizer, ids)


every_template = pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])


def test_all_of_trls_templates_are_covered() -> None:
    """This test fails if a new release of TRL adds templates."""
    assert len(TEMPLATES) == 72


@every_template
def test_a_template_plays_as_it_comes(path: Path) -> None:
    """Whatever differs from what the template alone would give a generation is noted."""
    tokenizer, template = published(path)
    prompt, answer = conversation(path, ANSWER)
    pair = template.encode(prompt, answer)
    assert tokenizer.decode(pair.real_ids).lstrip(" ") == ANSWER + family_of(path).end
    expected = {"nemotron": notes.NO_THINKING, "deepseek": notes.RECORDED_START}
    assert pair.notes == {note for name, note in expected.items() if path.stem.startswith(name)}


def test_arguments_with_which_a_template_cant_play_are_refused() -> None:
    """A user who asks for thinking, with answers that have none, is told what to change."""
    (path,) = (path for path in TEMPLATES if path.stem == "nemotron_3_nano")
    tokenizer = family_tokenizer(path)
    template = PairTemplate(tokenizer, chat_template_kwargs={"enable_thinking": True})
    with refused(TemplateError, "thinking", "`chat_template_kwargs: {enable_thinking: false}`"):
        template.encode(*conversation(path, ANSWER))


@every_template
def test_prompt_and_response_are_the_rendered_conversation_cut_at_its_end(path: Path) -> None:
    """Nothing is lost, added or tokenised differently; text that the template writes around an answer belongs to the
    prompt.
    """
    tokenizer, template = published(path)
    family, options = family_of(path), options_of(path)
    for text in ANSWERS:
        prompt, answer = conversation(path, text)
        pair = template.encode(prompt, answer)
        rendered = tokenizer.apply_chat_template([*prompt, answer], tokenize=False, **options)
        start = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **options)
        if path.stem.startswith("deepseek"):
            start = start.removesuffix("<think>\n")  # its recorded answers have none
        head, tail = rendered.rsplit(text.strip(), 1)
        # Up to the end of the turn, which GLM's templates leave for the next turn to write.
        whole = head + text.strip() + tail.partition(family.end)[0] + family.end
        assert tokenizer.decode(pair.prompt_ids + pair.real_ids) == whole
        before = tokenizer.decode(pair.prompt_ids)
        assert before.startswith(start)
        assert head.startswith(before)
        # Only the answer's own leading space may stand between the prompt and the answer.
        assert head[len(before) :].strip() == ""
        assert pair.real_ids[-1] == tokenizer.convert_tokens_to_ids(SPECIAL.findall(family.end)[-1])
        assert [token in template.eos_ids for token in pair.real_ids] == [False] * (len(pair.real_ids) - 1) + [True]
        # The prompt's tokens are exactly those that generation gets for this text.
        assert pair.prompt_ids == tokenizer(before, add_special_tokens=False)["input_ids"]
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        if ids[: len(pair.prompt_ids)] == pair.prompt_ids:  # no token crosses the boundary
            assert pair.prompt_ids + pair.real_ids == ids


@every_template
def test_a_turn_ends_where_generation_stops_whatever_the_checkpoint_calls_eos(path: Path) -> None:
    """Base models name another EOS than the chat template writes; the token that ends the turn is then among the EOS ids."""
    tokenizer = family_tokenizer(path, eos_token="<|some_other_end|>")
    template = PairTemplate(tokenizer)
    prompt, answer = conversation(path, ANSWER)
    real_ids = template.encode(prompt, answer).real_ids
    assert [token in template.eos_ids for token in real_ids] == [False] * (len(real_ids) - 1) + [True]
    end = tokenizer.decode(real_ids).partition(ANSWER)[2]
    if path.stem == "glm4moe":
        assert end == "<|some_other_end|>"  # nothing in the template marks the end of a turn
    elif path.stem.startswith("phi3"):
        assert end == "<|end|>\n<|some_other_end|>"  # it writes the checkpoint's EOS itself
    elif path.stem.startswith("cohere2"):
        assert end == "<|END_RESPONSE|>"
    else:
        assert end == family_of(path).end


@every_template
def test_the_opponent_starts_and_stops_where_the_real_response_does(path: Path) -> None:
    """A model that writes the real response, and whatever the template appends to it, generates exactly its ids."""
    tokenizer, template = published(path)
    prompt, answer = conversation(path, ANSWER)
    pair = template.encode(prompt, answer)
    behind = tokenizer("\nUser: and then?", add_special_tokens=False)["input_ids"]
    model = known_models.scripted(
        pair.real_ids + behind,
        vocab_size=len(tokenizer),
        start=len(pair.prompt_ids),
        num_positions=len(pair.prompt_ids) + 64,
    )
    engine = TransformersEngine(model, template.eos_ids, tokenizer.pad_token_id, chunk_size=4)
    greedy = Sampling(
        temperature=0, top_p=1, top_k=0, max_new_tokens=50, max_length=None, num_generations=1, batch_size=1, seed=0
    )
    assert engine.answer([pair.prompt_ids], greedy, seed=0) == [Response(pair.real_ids, "eos")]


@every_template
def test_a_real_response_stored_as_if_it_were_generated_gives_identical_ids(path: Path, tmp_path: Path) -> None:
    """Store, pairs and collator produce two identical halves of a batch, in tokens and masks."""
    tokenizer, template = published(path)
    rows = []
    for text in ANSWERS[:3]:
        prompt, answer = conversation(path, text)
        rows.append({"messages": [*prompt, answer]})
    prepared = prepare(Dataset.from_list(rows), template)
    store = GenerationStore(tmp_path / "generations")
    store.open(Manifest("d", "t", "m", "engine", 0, {}, num_rows=3, num_shards=1))
    store.write_shard(0, [(row["key"], 0, Response(row["real_ids"], "eos")) for row in prepared])
    generations = Generations.load({0: store})
    pairs, counts = pair(prepared, generations, settings_for_pairs(tmp_path))
    assert (counts.total, counts.identical, counts.truncated, counts.empty) == (3, 3, 0, 0)
    collator = DataCollatorForSelfPlay(pad_token_id=tokenizer.pad_token_id, generations=generations)
    batch = collator(list(pairs))
    for name in ("input_ids", "attention_mask", "completion_mask"):
        real, generated = batch[name].chunk(2)
        assert real.equal(generated), name
    assert batch["completion_mask"].sum().item() == 2 * sum(len(row["real_ids"]) for row in prepared)


def settings_for_pairs(folder: Path) -> SPINConfig:
    """Return settings that keep every pair."""
    return SPINConfig(str(folder), bf16=False, use_cpu=True, report_to="none")


# ---- what belongs to the prompt -----------------------------------------------------------------------------------------


def ask(text: str = "Which boat?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def reply(text: str = ANSWER, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def shown(tokenizer: PreTrainedTokenizerFast, pair: EncodedPair) -> tuple[str, str]:
    """Return prompt and real response as text, with every special token."""
    return tokenizer.decode(pair.prompt_ids), tokenizer.decode(pair.real_ids)


TOOLS = [{"type": "function", "function": {"name": "find_boat", "parameters": {}}}]


@pytest.mark.parametrize("as_json", [False, True], ids=["list", "JSON"])
def test_tools_reach_the_prompt(tokenizer: PreTrainedTokenizerFast, as_json: bool) -> None:
    """A row's tools, given as a list or as JSON, appear in the prompt that the opponent gets."""
    prompt, real = shown(
        tokenizer, PairTemplate(tokenizer).encode(ask(), reply(), tools=json.dumps(TOOLS) if as_json else TOOLS)
    )
    assert prompt.startswith("<|im_start|>system\nTools: [")
    assert "find_boat" in prompt
    assert real == "A red boat.<|im_end|>"


def test_tools_that_are_no_json_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    """Many datasets store tools as JSON text; invalid JSON is reported with its row."""
    with refused(DataError, "`tools`", "JSON", "'{nope'"):
        PairTemplate(tokenizer).encode(ask(), reply(), tools="{nope")


def test_template_arguments_reach_the_prompt_and_a_rows_own_win(tokenizer: PreTrainedTokenizerFast) -> None:
    """`chat_template_kwargs` in the settings applies to every row; a row may override it."""
    template = PairTemplate(tokenizer, chat_template_kwargs={"style": "terse"})
    prompt, _ = shown(tokenizer, template.encode(ask(), reply()))
    own, _ = shown(tokenizer, template.encode(ask(), reply(), chat_template_kwargs={"style": "lively"}))
    plain, _ = shown(tokenizer, PairTemplate(tokenizer).encode(ask(), reply()))
    assert prompt == "<|im_start|>system\nStyle: terse<|im_end|>\n" + plain
    assert own == "<|im_start|>system\nStyle: lively<|im_end|>\n" + plain
    assert plain == "<|im_start|>user\nWhich boat?<|im_end|>\n<|im_start|>assistant\n"


def qwen3() -> PreTrainedTokenizerFast:
    return family_tokenizer(Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja")


def test_an_empty_thinking_block_belongs_to_the_prompt() -> None:
    """Qwen3's template writes one before an answer without thinking, so the opponent need not guess it."""
    tokenizer = qwen3()
    prompt, real = shown(tokenizer, PairTemplate(tokenizer).encode(ask(), reply()))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert real == "A red boat.<|im_end|>"


def test_thoughts_of_the_human_answer_are_trained_on() -> None:
    """The response to train on starts with the answer's thinking."""
    tokenizer = qwen3()
    text = "<think>\nBoats are red.\n</think>\n\nA red boat."
    prompt, real = shown(tokenizer, PairTemplate(tokenizer).encode(ask(), reply(text)))
    assert prompt.endswith("<|im_start|>assistant\n")
    assert real == text + "<|im_end|>"


def test_tool_calls_are_part_of_the_response(tokenizer: PreTrainedTokenizerFast) -> None:
    """An answer may be a tool call, with or without text."""
    call = [{"type": "function", "function": {"name": "find_boat", "arguments": {"colour": "red"}}}]
    _, real = shown(tokenizer, PairTemplate(tokenizer).encode(ask(), reply("Let me see. ", tool_calls=call)))
    assert real.startswith("Let me see. [")
    assert real.endswith("<|im_end|>")
    assert '"name": "find_boat"' in real


def test_a_template_that_leaves_out_tool_calls_is_refused() -> None:
    """Otherwise the real response would be an empty one."""
    path = Path(trl.__file__).parent / "chat_templates" / "gemma.jinja"
    call = [{"type": "function", "function": {"name": "find_boat", "arguments": {}}}]
    with refused(TemplateError, "leaves out", "tool call", "message 1", "role 'assistant'", "the answer"):
        PairTemplate(family_tokenizer(path)).encode(ask(), reply("", tool_calls=call))


def test_a_template_that_raises_is_quoted(tokenizer: PreTrainedTokenizerFast) -> None:
    """The error quotes the template's own message."""
    complaint = "Roles must alternate!"
    tokenizer.chat_template = f"{{{{ raise_exception({complaint!r}) }}}}"
    with refused(TemplateError, complaint, "message 0", "role 'user'"):
        PairTemplate(tokenizer).encode(ask(), reply())


def test_conversations_need_a_chat_template() -> None:
    """The message says what to do about it."""
    with refused(DataError, "`tokenizer.chat_template`", "`prompt`", "`completion`"):
        PairTemplate(tiny.tokenizer(chat_template=False)).encode(ask(), reply())


def test_text_needs_no_chat_template() -> None:
    """Plain text is tokenised unchanged, with EOS appended."""
    tokenizer = tiny.tokenizer(chat_template=False)
    pair = PairTemplate(tokenizer).encode("Ann paints a boat.", " A red one.")
    assert shown(tokenizer, pair) == ("Ann paints a boat.", " A red one.<|im_end|>")


@pytest.mark.parametrize(("prompt", "response"), [("text", reply()), (ask(), "text")], ids=["prompt", "response"])
def test_text_and_messages_do_not_mix(tokenizer: PreTrainedTokenizerFast, prompt: Any, response: Any) -> None:
    """Half a conversation can't be rendered."""
    with refused(DataError, "prompt", "response", "both"):
        PairTemplate(tokenizer).encode(prompt, response)


# ---- the end of a response ----------------------------------------------------------------------------------------------


def test_a_tokenizer_without_eos_is_refused() -> None:
    """If the model's generation config names an EOS, that one is used."""
    tokenizer = tiny.tokenizer(eos_token=None)
    with refused(DataError, "EOS", "`tokenizer.eos_token`", "`eos_token_id`", "generation_config.json"):
        PairTemplate(tokenizer)
    end = tokenizer.convert_tokens_to_ids(tiny.END_OF_TEXT)
    template = PairTemplate(tokenizer, eos_token_ids(tokenizer, GenerationConfig(eos_token_id=end)))
    assert template.encode("Ann?", " Bob.").real_ids[-1] == end


@pytest.mark.parametrize(("configured", "expected"), [(None, [2]), (0, [0, 2]), ([0, 1], [0, 1, 2]), ([2, 0], [0, 2])])
def test_every_configured_eos_counts(configured: int | Sequence[int] | None, expected: list[int]) -> None:
    """These are the tokenizer's EOS and those of the generation config."""
    tokenizer = tiny.tokenizer()
    assert tokenizer.convert_tokens_to_ids([tiny.END_OF_TEXT, tiny.IM_START, tiny.IM_END]) == [0, 1, 2]
    assert eos_token_ids(tokenizer, GenerationConfig(eos_token_id=configured)) == expected
    assert eos_token_ids(tokenizer) == [2]


@pytest.mark.parametrize("end", [tiny.END_OF_TEXT, tiny.IM_END])
def test_an_answer_with_an_eos_in_its_text_is_refused(tokenizer: PreTrainedTokenizerFast, end: str) -> None:
    """Text after the EOS would be lost, since no generation goes past its end."""
    template = PairTemplate(tokenizer, [0, 2])
    with refused(EarlyEndError, repr(end), "' Bob.'"):
        template.encode("Ann?", f" Bob.{end} And Cleo.")
    with refused(EarlyEndError, repr(end), "'Bob.'"):
        template.encode(ask(), reply(f"Bob.{end} And Cleo."))


@pytest.mark.parametrize("end", [tiny.END_OF_TEXT, tiny.IM_END])
def test_an_answer_may_end_with_its_own_eos(tokenizer: PreTrainedTokenizerFast, end: str) -> None:
    """Some datasets write it there; nothing is lost, and it is not repeated."""
    template = PairTemplate(tokenizer, [0, 2])
    assert shown(tokenizer, template.encode("Ann?", f" Bob.{end}")) == ("Ann?", f" Bob.{end}")
    assert shown(tokenizer, template.encode(ask(), reply(f"Bob.{end}\n")))[1] == f"Bob.{end}"


def test_an_eos_inside_the_prompt_does_not_end_the_response(tokenizer: PreTrainedTokenizerFast) -> None:
    """Earlier turns end with EOS, too."""
    turns = [*ask(), reply("Blue."), *ask("Sure?")]
    prompt, real = shown(tokenizer, PairTemplate(tokenizer).encode(turns, reply()))
    assert prompt.count("<|im_end|>") == 3
    assert real == "A red boat.<|im_end|>"


def test_a_template_that_ends_no_turn_gets_the_tokenizers_eos() -> None:
    """Plain-text templates write none: generations and real responses both end with EOS then."""
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt }}"
    )
    tokenizer = tiny.tokenizer(chat_template=template, eos_token=tiny.END_OF_TEXT)
    pair = PairTemplate(tokenizer).encode(ask(), reply())
    assert shown(tokenizer, pair) == ("user: Which boat?\nassistant:", " A red boat.\n<|endoftext|>")


def test_text_ends_with_the_tokenizers_own_eos_though_the_chat_template_has_another() -> None:
    """If several ids can end a response, text gets the tokenizer's."""
    path = Path(trl.__file__).parent / "chat_templates" / "glm4moe.jinja"
    tokenizer, template = published(path)
    assert len(template.eos_ids) == 3
    assert tokenizer.decode(template.encode("Ann?", " Bob.").real_ids) == " Bob.<|endoftext|>"


# ---- the first token of a response --------------------------------------------------------------------------------------


def sentencepiece(kind: str = "legacy", *, add_eos: bool = False) -> PreTrainedTokenizerFast:
    """Return a Llama-2-style tokenizer: spaces are `▁`, one precedes every text, bytes fall back, BOS begins a text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=["▁", "\n", *map(chr, range(33, 127))],
        show_progress=False,
    )
    rows = tiny.sft(40).to_list()
    backend.train_from_iterator([word for row in rows for text in row.values() for word in text.split(" ")], trainer)
    single = "<s> $A </s>" if add_eos else "<s> $A"
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["legacy", "first"])
def test_llama_style_tokenizers_join_the_space_to_the_answers_first_word(kind: str) -> None:
    """SentencePiece joins the space in `[/INST] A` to the word: it is generated, and is not part of the prompt."""
    tokenizer = sentencepiece(kind)
    tokenizer.chat_template = LLAMA2
    pair = PairTemplate(tokenizer).encode(ask(), reply())
    whole = tokenizer("<s>[INST] Which boat? [/INST] A red boat. </s>", add_special_tokens=False)["input_ids"]
    assert pair.prompt_ids + pair.real_ids == whole
    assert tokenizer.convert_ids_to_tokens(pair.real_ids)[0] in ("▁A", "▁")
    assert tokenizer.convert_ids_to_tokens(pair.prompt_ids)[-1].endswith("]")
    assert pair.prompt_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("kind", ["legacy", "first"])
def test_bos_begins_text_once(kind: str) -> None:
    """The tokenizer adds BOS to the prompt, not to the response."""
    tokenizer = sentencepiece(kind)
    pair = PairTemplate(tokenizer).encode("Ann paints", " a boat.")
    assert pair.prompt_ids[0] == tokenizer.bos_token_id
    assert (pair.prompt_ids + pair.real_ids).count(tokenizer.bos_token_id) == 1


def test_a_template_that_writes_bos_is_not_given_a_second_one() -> None:
    """Llama 3's template writes it, and its tokenizer would add another."""
    path = Path(trl.__file__).parent / "chat_templates" / "llama3.jinja"
    tokenizer = family_tokenizer(path)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    assert tokenizer("Ann")["input_ids"][0] == bos
    pair = PairTemplate(tokenizer).encode(ask(), reply())
    assert pair.prompt_ids[0] == bos
    assert (pair.prompt_ids + pair.real_ids).count(bos) == 1


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt() -> None:
    """With `add_eos_token`, a prompt tokenised alone would end before the answer begins."""
    tokenizer = sentencepiece(add_eos=True)
    assert tokenizer("Ann paints")["input_ids"][-1] == tokenizer.eos_token_id
    pair = PairTemplate(tokenizer).encode("Ann paints", " a boat.")
    assert tokenizer.eos_token_id not in pair.prompt_ids
    assert pair.real_ids.count(tokenizer.eos_token_id) == 1
    assert pair.real_ids[-1] == tokenizer.eos_token_id


def test_tokens_that_merge_across_the_boundary_are_split_there() -> None:
    """No generation can produce a token that starts in its prompt."""
    tokenizer = tiny.tokenizer(chat_template=False)
    prompt, response = "Ann pai", "nts."
    merged = tokenizer(prompt + response)["input_ids"]
    prompt_ids = tokenizer(prompt)["input_ids"]
    assert merged[: len(prompt_ids)] != prompt_ids, "these texts no longer merge"
    pair = PairTemplate(tokenizer).encode(prompt, response)
    assert pair.prompt_ids == prompt_ids
    assert shown(tokenizer, pair) == (prompt, response + "<|im_end|>")


@pytest.mark.parametrize("kind", ["legacy", "first"])
def test_a_prompt_that_ends_with_a_space_gets_no_second_one(kind: str) -> None:
    """SentencePiece puts a space before a text that stands alone, but an answer does not stand alone."""
    tokenizer = sentencepiece(kind)
    pair = PairTemplate(tokenizer).encode("Response: ", "A red boat.")
    assert tokenizer.decode(pair.prompt_ids + pair.real_ids) == "<s> Response: A red boat.</s>"


TEXT = st.text(st.sampled_from("abAB .,\n:é日"), min_size=1, max_size=12)
BYTE_LEVEL, LEGACY, FIRST = tiny.tokenizer(chat_template=False), sentencepiece("legacy"), sentencepiece("first")


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LEGACY, FIRST], ids=["byte-level", "legacy", "first"])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(prompt=TEXT, response=TEXT)
def test_the_text_is_kept_wherever_it_is_cut(tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> None:
    """Prompt and response decode to their parts of the text, and the prompt is tokenised as it would be alone."""
    pair = PairTemplate(tokenizer).encode(prompt, response)
    assert pair.prompt_ids == tokenizer(prompt)["input_ids"]
    assert pair.real_ids[-1] == tokenizer.eos_token_id
    together = tokenizer.decode(tokenizer(prompt + response)["input_ids"])
    assert tokenizer.decode(pair.prompt_ids + pair.real_ids[:-1]) == together


# ---- what the tokenizer changes -----------------------------------------------------------------------------------------


def lower_case() -> PreTrainedTokenizerFast:
    """Return a BERT-style tokenizer: lower case, no accents, words split at white space, and an unknown token."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    backend.train_from_iterator(["ann paints a boat. which? red"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")


def letters(unknown: str | None = "<unk>") -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each of a few letters."""
    vocabulary = {"<unk>": 0, "<end>": 1} | {letter: 2 + number for number, letter in enumerate("abcd .?")}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    if unknown is None:
        backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown, eos_token="<end>")


def compatible() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with Unicode compatibility normalisation."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


CHANGES = {
    "nothing": (tiny.tokenizer, "É ﬁ\n\n  日本 ", "🚤", set()),
    "SentencePiece, nothing": (lambda: sentencepiece("legacy"), " É  ﬁ\n 日本", " 🚤 ", set()),
    "SentencePiece's newer kind, nothing": (lambda: sentencepiece("first"), " É  ﬁ\n 日本", " 🚤 ", set()),
    "a text with BOS, nothing": (lambda: sentencepiece("first"), "<s>Ann?", " Bob.", set()),
    "letter case": (lower_case, "Ann?", " red", {notes.NORMALISED}),
    "white space": (lower_case, "ann\n\nann", " red", {notes.NORMALISED}),
    "Unicode form": (compatible, "ﬁ?", " Bob.", {notes.NORMALISED}),
    "an answer with its own EOS, nothing": (letters, "ab", "c<end>", set()),
    "an unknown word": (lower_case, "ann 日本", " red", {notes.UNKNOWN_IN_TEXT}),
    "an unknown letter": (letters, "bécd", "a", {notes.UNKNOWN_IN_TEXT}),
    "an unknown letter in the answer": (letters, "abc", "é", {notes.UNKNOWN_IN_TEXT}),
    "the unknown token in the text": (letters, "ab<unk>", "c", set()),
    "a letter that is dropped": (lambda: letters(None), "bécd", "a", {notes.UNKNOWN_IN_TEXT}),
    "a letter that is dropped from the answer": (lambda: letters(None), "bcd", "aé", {notes.UNKNOWN_IN_TEXT}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_tokenizer_changes_is_noted(name: str) -> None:
    """The tokens decode to the text, or the row notes what changed."""
    make, prompt, response, expected = CHANGES[name]
    assert PairTemplate(make()).encode(prompt, response).notes == expected


def test_a_character_that_is_no_token_must_not_end_the_answer() -> None:
    """It would, if the unknown token is also the EOS token."""
    tokenizer = letters()
    tokenizer.eos_token = "<unk>"
    with refused(EarlyEndError, "'<unk>'", "'b'"):
        PairTemplate(tokenizer).encode("ab", "bécd")


# ---- BOS ----------------------------------------------------------------------------------------------------------------


def with_bos(tokenizer: PreTrainedTokenizerFast, bos: str = tiny.END_OF_TEXT) -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a token before every text."""
    special = [(bos, tokenizer.convert_tokens_to_ids(bos))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=special
    )
    return tokenizer


@pytest.mark.parametrize("is_named", [True, False])
def test_text_that_begins_with_bos_gets_no_second_one(is_named: bool) -> None:
    """Prompts rendered by a chat template may begin with BOS, which can be any token that the tokenizer adds."""
    tokenizer = with_bos(tiny.tokenizer(chat_template=False))
    if is_named:
        tokenizer.add_special_tokens({"bos_token": tiny.END_OF_TEXT})
    template = PairTemplate(tokenizer, [2])
    plain = template.encode("Ann?", " Bob.")
    assert template.encode("<|endoftext|>Ann?", " Bob.") == plain
    assert shown(tokenizer, plain) == ("<|endoftext|>Ann?", " Bob.<|im_end|>")
    assert shown(tokenizer, template.encode("<|endoftext|><|endoftext|>Ann?", " Bob.")) == (
        "<|endoftext|><|endoftext|>Ann?",
        " Bob.<|im_end|>",
    )


# ---- identity -----------------------------------------------------------------------------------------------------------


def test_the_digest_names_all_that_decides_the_tokens() -> None:
    """Another template, template argument, EOS id or vocabulary gives other tokens, and other generations."""
    same = [PairTemplate(tiny.tokenizer()).digest() for _ in range(2)]
    assert same[0] == same[1]
    bigger = tiny.tokenizer()
    bigger.add_tokens(["boat"])
    others = [
        PairTemplate(tiny.tokenizer(chat_template=LLAMA2)),
        PairTemplate(tiny.tokenizer(), chat_template_kwargs={"style": "terse"}),
        PairTemplate(tiny.tokenizer(), [0, 2]),
        PairTemplate(bigger),
    ]
    assert len({same[0], *(other.digest() for other in others)}) == 5


def first(**changes: Any) -> PairTemplate:
    return PairTemplate(changes.pop("tokenizer", None) or tiny.tokenizer(), [0, 2], **changes)


def test_the_first_definition_of_the_digest_is_that_of_version_0_1_0() -> None:
    """Runs of version 0.1.0 are recognised by it."""
    tokenizer = tiny.tokenizer()
    identity = [
        tokenizer.chat_template,
        {},
        [0, 2],
        sorted(tokenizer.get_vocab().items()),
        tokenizer("Ab 12,  é\n\n\tWörld's (x)", add_special_tokens=False)["input_ids"],
    ]
    expected = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    assert first().digest(1) == expected
    assert re.fullmatch("02[0-9a-f]{16}", first().digest())
    assert first().digest() == first().digest(2)
    with refused(ValueError, "definition 3", "digest", 1, 2):
        first().digest(3)


def other_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = tiny.END_OF_TEXT


def other_flag(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True, lstrip=True)], special_tokens=True)


def other_normalizer(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("boat", "ship")


def other_split(tokenizer: PreTrainedTokenizerFast) -> None:
    rest = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("oa", "isolated"), rest])


def special_as_text(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.split_special_tokens = True


DIFFERENT = {
    "its own EOS": other_eos,
    "BOS before a text": with_bos,
    "a flag of an added token": other_flag,
    "the normaliser": other_normalizer,
    "split rules": other_split,
    "special tokens read as text": special_as_text,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_tokenizers_that_differ_in_anything_have_digests_of_their_own(name: str) -> None:
    """They have the same vocabulary, but different digests."""
    tokenizer = tiny.tokenizer()
    DIFFERENT[name](tokenizer)
    assert first(tokenizer=tokenizer).digest() != first().digest()


def test_paths_and_padding_are_not_part_of_the_digest(tmp_path: Path) -> None:
    """Dates are not part of it either: a tokenizer that is saved and loaded keeps its digest."""
    tokenizer = tiny.tokenizer()
    for folder in ("a", "b"):
        tokenizer.save_pretrained(tmp_path / folder)
        loaded = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert first(tokenizer=loaded).digest() == first().digest()
    tokenizer(["Ann", "Ann paints"], padding=True, truncation=True, max_length=3)
    tokenizer.padding_side, tokenizer.model_max_length = "left", 7
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.backend_tokenizer.enable_truncation(5)
    assert first(tokenizer=tokenizer).digest() == first().digest()


def test_rows_of_another_tokenizer_are_never_taken_from_a_cache(tmp_path: Path) -> None:
    """Two tokenizers that differ in BOS or EOS prepare the same file in turn."""
    rows = load_rows(str(tiny.write_jsonl(tmp_path / "data.jsonl", tiny.sft(4))))
    texts = []
    for tokenizer in (tiny.tokenizer(), with_bos(tiny.tokenizer()), tiny.tokenizer(eos_token=tiny.END_OF_TEXT)):
        row = prepare(rows, PairTemplate(tokenizer, [0, 2]))[0]
        texts.append(tokenizer.decode(row["prompt_ids"][:1] + row["real_ids"][-1:]))
    assert len(set(texts)) == 3


LOOKS_AT_TEXTS = tiny.CHATML.replace(
    "{{ '<|im_start|>'", "{{ '!' if message['content'][0] == 'u' else '' }}{{ '<|im_start|>'"
)


@pytest.mark.parametrize("template", [tiny.CHATML, LOOKS_AT_TEXTS], ids=["plain", "looks-at-texts"])
def test_the_texts_of_a_row_are_found_in_what_is_rendered(template: str) -> None:
    """This includes a text that the template also writes itself, and one that occurs twice."""
    pair_template = PairTemplate(tiny.tokenizer(chat_template=template))
    texts = ["user", "a", "user", "a"]
    roles = ["user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    text, own = pair_template.own_texts(messages[:-1], messages[-1])
    assert [text[start:stop] for start, stop in own] == texts
    assert [text[:start].split("|>")[-1] for start, _ in own] == [f"{role}\n" for role in roles]
    assert ("!" in text) is (template == LOOKS_AT_TEXTS)
    assert pair_template.own_texts("What? ", "This.") == ("What? This.", [(0, 11)])
