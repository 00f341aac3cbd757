"""Inspecting data and model for a recipe keeps the rows' numbers, counts lengths in tokens as a run does, and loads no
model.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

import tiny
from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.play.first_steps import look
from spin_trl.play.first_steps.look import (
    SeenModel,
    at_quantile,
    lengths_in_words,
    look_at_data,
    look_at_model,
    this_machine,
)

ROWS = list(tiny.sft(12).to_list())


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seen_model(llama_folder: Path) -> SeenModel:
    return look_at_model(str(llama_folder))


def write_jsonl(rows: list[dict[str, Any]], further: str = "") -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("train.jsonl").write_text(text + further, encoding="utf-8")
    return "train.jsonl"


def test_of_a_model_its_configuration_and_tokenizer_are_read(llama_folder: Path) -> None:
    """The weights are not read: they may be missing."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (llama_folder / name).exists():
            Path(name).write_bytes((llama_folder / name).read_bytes())
    seen = look_at_model(".")
    assert seen.config is not None
    assert seen.positions == seen.config.max_position_embeddings
    assert seen.has_chat_template
    assert not seen.is_adapter


def test_of_an_adapter_the_bases_configuration_is_read(llama_folder: Path) -> None:
    tiny.tokenizer(chat_template=False).save_pretrained("adapter")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(llama_folder)}
    Path("adapter/adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    seen = look_at_model("adapter")
    assert seen.is_adapter
    assert seen.config is not None
    assert seen.config.model_type == "llama"
    assert not seen.has_chat_template


def test_a_model_without_a_tokenizer_is_refused() -> None:
    Path("empty").mkdir()
    with refused(DataError, "empty"):
        look_at_model("empty")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=77), 77),
        (GPT2Config(n_positions=55), 55),
        (PreTrainedConfig(), None),
        (LlamaConfig(max_position_embeddings=-1), None),
        (None, None),
    ],
    ids=["llama", "gpt2", "not-said", "nonsense", "no-config"],
)
def test_positions_are_known_where_a_configuration_says_them(config: Any, expected: int | None) -> None:
    assert SeenModel("m", config, tiny.tokenizer(), is_adapter=False).positions == expected


def test_a_machine_without_a_gpu_is_its_cpu() -> None:
    machine = this_machine()
    assert not machine.device.is_gpu
    assert machine.device.memory > 0


def test_lengths_are_those_of_the_models_tokens(seen_model: SeenModel) -> None:
    """The lengths include the chat template and the token that ends a response."""
    rows = [row["messages"] for row in tiny.sft(12, "messages").to_list()]
    seen = look_at_data(write_jsonl([{"messages": turns} for turns in rows]), None, "train", seen_model)
    whole, real = [], []
    for turns in rows:
        prompt = seen_model.tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        text = f"{turns[1]['content']}<|im_end|>"
        real.append(len(seen_model.tokenizer(text, add_special_tokens=False)["input_ids"]))
        whole.append(len(prompt) + real[-1])
    assert seen.lengths == (sorted(whole), sorted(real))
    assert seen.is_counted


def test_text_is_counted_as_a_conversation(seen_model: SeenModel) -> None:
    seen = look_at_data(write_jsonl(ROWS), None, "train", seen_model)
    assert not seen.is_text
    assert seen.settings.as_conversations
    as_text = look_at_data(
        "train.jsonl", None, "train", SeenModel(seen_model.name, None, tiny.tokenizer(chat_template=False), False)
    )
    assert as_text.is_text
    assert max(as_text.lengths[0]) < min(seen.lengths[0])


def test_without_a_model_lengths_follow_from_characters() -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a" * 30}, {"role": "assistant", "content": "b" * 60}]},
        {"messages": [{"role": "user", "content": "a" * 3}, {"role": "assistant", "content": "b" * 6}]},
    ]
    seen = look_at_data(write_jsonl(rows), None, "train", None)
    assert seen.lengths == ([3, 30], [2, 20])
    assert not seen.is_counted
    assert names(lengths_in_words(seen), "2 rows", 30, "3 characters")


def test_a_sample_goes_from_the_beginning_to_the_end_of_the_data(
    seen_model: SeenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad rows keep their numbers in the data."""
    monkeypatch.setattr(look, "TOKENISED", 10)
    rows = [{"prompt": f"{number}?", "completion": "" if number == 90 else "a boat"} for number in range(100)]
    seen = look_at_data(write_jsonl(rows), None, "train", seen_model)
    assert (seen.total, seen.sampled) == (100, 10)
    assert [number for number, _ in seen.bad] == [90]
    assert len(seen.lengths[0]) == 9


@pytest.mark.parametrize("has_model", [True, False], ids=["model", "no-model"])
def test_lines_that_can_not_be_read_are_bad_rows(has_model: bool, seen_model: SeenModel) -> None:
    """Such lines do not become a column of the data, and have no length."""
    seen = look_at_data(write_jsonl(ROWS, "{no JSON\n"), None, "train", seen_model if has_model else None)
    assert [number for number, _ in seen.bad] == [12]
    assert seen.total == 13
    assert len(seen.lengths[0]) == 12
    assert seen.columns == seen.read == ["prompt", "completion"]


@pytest.mark.parametrize("has_model", [True, False], ids=["model", "no-model"])
def test_many_bad_rows_are_refused(has_model: bool, seen_model: SeenModel) -> None:
    data = write_jsonl(ROWS[:3], "{no JSON\n" * 3)
    with refused(DataError, "3 of 6 rows", "row 3"):
        look_at_data(data, None, "train", seen_model if has_model else None)


def test_objects_are_named_that_are_not_looked_into() -> None:
    data = write_jsonl([{"size": 3, "data": {"question": "a", "answer": "b"}}])
    with refused(DataError, "(data)", "`prompt`", "`completion`"):
        look_at_data(data, None, "train", None)


@pytest.mark.parametrize(
    ("template", "text", "mapping"),
    [(True, False, {}), (False, True, {"instruction": "prompt", "output": "completion"})],
    ids=["chat-template", "no-chat-template"],
)
def test_instructions_are_text_for_a_model_without_a_chat_template(
    template: bool, text: bool, mapping: dict[str, str], llama_folder: Path, seen_model: SeenModel
) -> None:
    model = SeenModel(seen_model.name, seen_model.config, tiny.tokenizer(chat_template=template), is_adapter=False)
    rows = [{"instruction": row["prompt"], "output": row["completion"]} for row in ROWS]
    seen = look_at_data(write_jsonl(rows), None, "train", model)
    assert (seen.is_text, seen.guess.mapping) == (text, mapping)
    assert seen.columns == ["instruction", "output"]


@pytest.mark.parametrize(("templated", "expected"), [(7, True), (5, False)], ids=["most", "some"])
def test_text_stays_text_where_most_prompts_hold_a_template(templated: int, expected: bool) -> None:
    rows = [
        {**row, "prompt": f"[INST] {row['prompt']} [/INST]" if number < templated else row["prompt"]}
        for number, row in enumerate(ROWS)
    ]
    seen = look_at_data(write_jsonl(rows), None, "train", None)
    assert seen.is_text is expected
    assert seen.settings.as_conversations is not expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("3 + 4 = 7\n#### 7", "gsm8k"), ("So it is \\boxed{7}.", "boxed"), ("It is 7.", None)],
    ids=["gsm8k", "boxed", "neither"],
)
@pytest.mark.parametrize("has_model", [True, False], ids=["model", "no-model"])
def test_a_scorer_is_named_that_most_answers_fit(
    has_model: bool, answer: str, expected: str | None, seen_model: SeenModel
) -> None:
    rows = [{"prompt": f"{n}?", "completion": answer if n else "No idea."} for n in range(3)]
    seen = look_at_data(write_jsonl(rows), None, "train", seen_model if has_model else None)
    assert seen.scorer == expected


def test_a_split_that_is_not_train_is_kept() -> None:
    Path("data").mkdir()
    Path(write_jsonl(ROWS)).rename("data/test.jsonl")
    seen = look_at_data("data", None, "test", None)
    assert seen.settings.dataset_train_split == "test"


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.98, 4), (1, 4)])
def test_a_quantile_is_one_of_the_lengths(share: float, expected: int) -> None:
    assert at_quantile([1, 2, 3, 4], share) == expected
    assert at_quantile([], share) == 0
