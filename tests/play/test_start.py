"""θ_0 from scratch: a small Llama and its tokenizer, made from the run's own data, once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import tiny
from runs import ROWS, build, entry, logp, steps, weights
from spin_trl.config.start import StartConfig
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError, RecipeError
from spin_trl.training.scratch import END, TURN, TURN_END, build_tokenizer

SMALL: dict[str, Any] = {
    "start_hidden_size": 32,
    "start_num_layers": 2,
    "start_num_heads": 2,
    "start_vocab_size": 300,
    "start_num_epochs": 3,
    "start_learning_rate": 1e-2,
}


def from_scratch(run_dir: str = "run", kind: str = "bpe", **settings: Any) -> Any:
    """A run that builds its start."""
    start = StartConfig(**{**SMALL, "start_tokenizer": kind, **settings.pop("start", {})})
    return build(None, run_dir, start=start, **{"num_iterations": 1, "max_length": 96, **settings})


# ---- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Ann paints a red boat.", "naïve – 日本 🙂\n\ttab  two spaces ", "<|im_start|> no"])
def test_bytes_encode_any_text(text: str) -> None:
    """A byte-level vocabulary gives every text back exactly, seen or not."""
    tokenizer = build_tokenizer(iter(["red boat"] * 9), StartConfig(**SMALL), 64)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 300


def characters(*texts: str, chats: bool) -> PreTrainedTokenizerBase:
    """A `char` tokenizer of these texts."""
    return build_tokenizer(iter(texts), StartConfig(**SMALL, start_tokenizer="char"), 64, chats=chats)


def test_characters_are_one_token_each() -> None:
    """Those of the data; nothing else is in the vocabulary but the three special tokens."""
    tokenizer = characters("abc b", "cd", chats=False)
    assert sorted(set(tokenizer.get_vocab()) - {END, TURN, TURN_END}) == [" ", "a", "b", "c", "d"]
    ids = tokenizer("dab c")["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids) == "dab c"


def test_a_character_that_was_not_seen_does_not_end_the_text() -> None:
    """It is the unknown token, which is not EOS, and what follows is kept."""
    tokenizer = characters("abcd", chats=False)
    ids = tokenizer("b\u00e9cd")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["b", tokenizer.unk_token, "c", "d"]
    assert tokenizer.unk_token_id not in (None, tokenizer.eos_token_id)


def test_characters_of_plain_text_end_with_eos_alone() -> None:
    """No response of plain text has the end of a turn, so a sampled one does not end an answer."""
    tokenizer = characters("abcd", chats=False)
    assert tokenizer.chat_template is None
    assert PairTemplate(tokenizer).eos_ids == [tokenizer.convert_tokens_to_ids(END)]


def test_characters_of_conversations_have_tokens_for_what_the_template_writes() -> None:
    """Roles and line breaks, which no message of the data may hold; a turn ends an answer, too."""
    tokenizer = characters("abcd", chats=True)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert PairTemplate(tokenizer).eos_ids == tokenizer.convert_tokens_to_ids([END, TURN_END])


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_tokenizer_can_end_pad_and_chat(kind: str, tmp_path: Path) -> None:
    """EOS, padding, and a chat template whose turns are single tokens; all survives saving."""
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


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_start_is_made_trained_and_played_from(kind: str) -> None:
    """Of the sizes that were asked for, better than chance at its own data, and the first opponent."""
    from_scratch(kind=kind).run()
    model = AutoModelForCausalLM.from_pretrained("run/start/model")
    tokenizer = AutoTokenizer.from_pretrained("run/start/model")
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert config.vocab_size == len(tokenizer)
    assert config.tie_word_embeddings
    made = entry("train", "start")
    assert made["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    rows = load_from_disk("run/data/train")
    tokens = sum(len(row["real_ids"]) for row in rows)
    nll = -sum(logp(model, row["prompt_ids"], row["real_ids"]) for row in rows) / tokens
    chance = torch.log(torch.tensor(float(len(tokenizer)))).item()
    assert nll < chance - 0.5
    assert entry("train", "iteration-0")["first"]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert steps()[:3] == [("prepare", "data"), ("train", "start"), ("evaluate", "start")]
    assert not Path("run/start/train").exists()


def test_a_start_is_made_once_and_the_same_each_time() -> None:
    """Continued, the run keeps it; made again elsewhere with the same seed, it is bitwise the same."""
    from_scratch("one").run()
    stamp = Path("one/start/model/model.safetensors").stat().st_mtime_ns
    from_scratch("one", num_iterations=2).run()
    assert Path("one/start/model/model.safetensors").stat().st_mtime_ns == stamp
    from_scratch("two").run()
    assert weights("two/start/model") == weights("one/start/model")
    assert weights("two/iteration-0/model") == weights("one/iteration-0/model")
    from_scratch("three", seed=7).run_phase("start", 0)
    assert weights("three/start/model") != weights("one/start/model")


def test_held_out_prompts_are_not_seen_by_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is trained on the rows that self-play trains on."""
    from spin_trl.play import start

    seen: list[set[str]] = []
    original = start.train_supervised
    monkeypatch.setattr(
        start, "train_supervised", lambda *args: (seen.append(set(args[2]["key"])), original(*args))[1]
    )
    from_scratch().run_phase("start", 0)
    held_out = set(load_from_disk("run/data/held-out")["key"])
    assert len(held_out) == 3
    assert len(seen[0]) == ROWS - 3
    assert not seen[0] & held_out


def test_label_smoothing_leaves_a_flatter_start() -> None:
    """As the quickstart's task wants it: the start's distribution keeps a tail."""
    entropies = []
    for smoothing in (0.0, 0.5):
        from_scratch(f"run-{smoothing}", start={"start_label_smoothing": smoothing, "start_num_epochs": 20}).run_phase(
            "start", 0
        )
        model = AutoModelForCausalLM.from_pretrained(f"run-{smoothing}/start/model")
        row = load_from_disk(f"run-{smoothing}/data/train")[0]
        with torch.no_grad():
            scores = model(torch.tensor([row["prompt_ids"] + row["real_ids"]])).logits[0].log_softmax(-1)
        entropies.append(float(-(scores.exp() * scores).sum(-1)[len(row["prompt_ids"]) :].mean()))
    assert entropies[1] > entropies[0] + 0.3


def test_a_conversation_is_learned_in_its_template() -> None:
    """Messages work as text does: a real response ends with its turn."""
    from_scratch(train_dataset=tiny.sft(ROWS, "messages")).run()
    tokenizer = AutoTokenizer.from_pretrained("run/start/model")
    row = load_from_disk("run/data/train")[0]
    assert tokenizer.decode(row["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(row["real_ids"]).endswith(TURN_END)


def test_an_interrupted_start_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before it was saved, it is trained from its beginning, with the same result."""
    from spin_trl.play import start

    from_scratch("whole").run_phase("start", 0)
    with monkeypatch.context() as patch:
        patch.setattr(start, "save_model", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            from_scratch().run_phase("start", 0)
    assert ("train", "start") not in steps()
    from_scratch().run_phase("start", 0)
    assert weights("run/start/model") == weights("whole/start/model")


def test_sizes_that_do_not_fit_are_refused() -> None:
    """Width and heads have to go together; the message has both."""
    with pytest.raises(RecipeError, match=r"`start_hidden_size` \(30\) must be a multiple of `start_num_heads` \(4\)"):
        StartConfig(start_hidden_size=30, start_num_heads=4)
    with pytest.raises(RecipeError, match="`start_tokenizer` is 'words'"):
        StartConfig(start_tokenizer="words")


def test_data_that_can_not_be_used_leaves_no_start() -> None:
    """The row is named before anything is trained."""
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}]
    with pytest.raises(DataError, match=r"Row 1 .*completion is empty"):
        from_scratch(train_dataset=Dataset.from_list(rows)).run()
    assert not Path("run/start/model").exists()
    assert not Path("run/journal.jsonl").exists()
