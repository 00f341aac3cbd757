"""Preference data in every form that DPOTrainer accepts gives the same tokens, batches and errors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from trl.trainer.dpo_trainer import DataCollatorForPreference

import tiny
from drop_in.compare import Kind, kinds, steps, train_both

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
TOOLS = [{"type": "function", "function": {"name": "find_thing", "description": "Finds it.", "parameters": {}}}]


def with_column(name: str, values: list[Any], n: int = 4) -> Dataset:
    """Return conversational preference pairs with one more column."""
    rows = tiny.preference(n, conversational=True).to_list()
    return Dataset.from_list([{**row, name: value} for row, value in zip(rows, values, strict=True)])


@pytest.mark.parametrize("implicit_prompt", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("conversational", [False, True], ids=["standard", "conversational"])
def test_every_format_becomes_its_tokens(
    conversational: bool, implicit_prompt: bool, kind: Kind, llama_folder: Path
) -> None:
    """Text ends in EOS, and conversations are written by the chat template; an implicit prompt is the common beginning
    of both.
    """
    data = tiny.preference(4, conversational, implicit_prompt)
    trainer = kind.build(str(llama_folder), train_dataset=data)
    text = tiny.tokenizer()
    for row, source in zip(trainer.train_dataset, tiny.preference(4), strict=True):
        prompt, chosen, rejected = (source[name] for name in ("prompt", "chosen", "rejected"))
        if conversational:
            start = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
            expected = [start, f"{chosen[1:]}<|im_end|>\n", f"{rejected[1:]}<|im_end|>\n"]
        elif implicit_prompt:
            shared = len(common_start(prompt + chosen, prompt + rejected))
            expected = [prompt, (prompt + chosen)[shared:] + "<|im_end|>", (prompt + rejected)[shared:] + "<|im_end|>"]
            expected[0] = (prompt + chosen)[:shared]
        else:
            expected = [prompt, f"{chosen}<|im_end|>", f"{rejected}<|im_end|>"]
        assert [text.decode(row[name]) for name in IDS] == expected
        if not implicit_prompt:
            assert [row[name] for name in IDS] == [text(part)["input_ids"] for part in expected]


def common_start(first: str, second: str) -> str:
    """Return the common beginning of two texts, without a trailing space, which TRL gives to the responses."""
    shared = next(index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return first[:shared].removesuffix(" ")


@pytest.mark.parametrize("implicit_prompt", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("conversational", [False, True], ids=["standard", "conversational"])
def test_every_format_trains_alike(
    conversational: bool, implicit_prompt: bool, folder: str, llama_folder: Path
) -> None:
    """Columns, rows, losses and weights are the same for both classes, in each of the four formats."""
    data = tiny.preference(6, conversational, implicit_prompt)
    dpo, spin = train_both(folder, lambda kind: kind.build(str(llama_folder), train_dataset=data))
    assert spin.train_dataset.column_names == dpo.train_dataset.column_names
    assert spin.train_dataset.to_list() == dpo.train_dataset.to_list()


def test_a_response_that_ends_in_eos_keeps_one(kind: Kind, llama_folder: Path) -> None:
    """EOS is added only if it is missing."""
    data = Dataset.from_list([{"prompt": "Say", "chosen": " yes.<|im_end|>", "rejected": " no."}])
    row = kind.build(str(llama_folder), train_dataset=data).train_dataset[0]
    assert [row[name].count(tiny.tokenizer().eos_token_id) for name in IDS] == [0, 1, 1]


@pytest.mark.parametrize("encode", [list, json.dumps], ids=["list", "json"])
def test_tools_reach_the_tokens(encode: Any, kind: Kind, llama_folder: Path) -> None:
    """The `tools` column, as a list or as JSON, is passed to the chat template."""
    data = with_column("tools", [encode(TOOLS)] * 4)
    for row in kind.build(str(llama_folder), train_dataset=data).train_dataset:
        assert tiny.tokenizer().decode(row["prompt_ids"]).startswith("<|im_start|>system\nTools: [{")
        assert "find_thing" in tiny.tokenizer().decode(row["prompt_ids"])


def test_tool_calls_are_responses(kind: Kind, llama_folder: Path) -> None:
    """An assistant's tool call is tokenised by the chat template like any other response."""
    call = {"type": "function", "function": {"name": "find_thing", "arguments": {"thing": "boat"}}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    data = with_column("chosen", [[answer]] * 4).add_column("tools", [json.dumps(TOOLS)] * 4)
    row = kind.build(str(llama_folder), train_dataset=data).train_dataset[0]
    assert "find_thing" in tiny.tokenizer().decode(row["chosen_ids"])


def test_chat_template_kwargs_reach_the_tokens_of_their_own_row(kind: Kind, llama_folder: Path) -> None:
    """The `chat_template_kwargs` column sets the template's variables row by row."""
    data = with_column("chat_template_kwargs", [{"style": style} for style in ("terse", "rich", "terse", "rich")])
    rows = kind.build(str(llama_folder), train_dataset=data).train_dataset
    styles = [tiny.tokenizer().decode(row["prompt_ids"]).split("\n")[1] for row in rows]
    assert styles == ["Style: terse<|im_end|>", "Style: rich<|im_end|>"] * 2


def test_other_columns_change_nothing(folder: str, llama_folder: Path) -> None:
    """Pairs stay pairs next to columns that an SFT dataset also has, as in UltraFeedback's binarised set."""
    rows = tiny.preference(6, conversational=True).to_list()
    extra = [
        {**row, "messages": row["prompt"] + row["chosen"], "completion": row["chosen"], "score": 1.5} for row in rows
    ]
    plain = kinds(f"{folder}/plain")[0].build(str(llama_folder), train_dataset=Dataset.from_list(rows))
    plain.train()
    _, spin = train_both(folder, lambda kind: kind.build(str(llama_folder), train_dataset=Dataset.from_list(extra)))
    assert steps(spin) == pytest.approx(steps(plain))
    assert {"messages", "completion", "score"} <= set(spin.train_dataset.column_names)
    assert spin.ref_model is not None


def test_a_template_that_writes_the_prompt_alone_differently_cuts_at_the_difference(
    folder: str, llama_folder: Path
) -> None:
    """The end of the prompt that the conversation doesn't have is left out, in both classes."""
    thinking = tiny.CHATML.replace(
        "<|im_start|>assistant\\n' }}{%- endif %}", "<|im_start|>assistant\\n<think>' }}{%- endif %}"
    )
    assert thinking != tiny.CHATML
    data = tiny.preference(4, conversational=True)
    rows = []
    for kind in kinds(folder):
        text = tiny.tokenizer(chat_template=thinking)
        trainer = kind.build(str(llama_folder), train_dataset=data, processing_class=text)
        rows.append(trainer.train_dataset.to_list())
        assert text.decode(rows[-1][0]["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("mode", "kept"), [("keep_start", 1), ("keep_end", 2)])
def test_rows_whose_prompt_fills_the_length_are_dropped(mode: str, kept: int, kind: Kind, llama_folder: Path) -> None:
    """With `keep_start`, nothing of the response would be left; with `keep_end`, something is."""
    data = Dataset.from_list(
        [
            {"prompt": "Hi", "chosen": " Bob", "rejected": " you"},
            {"prompt": "Ann paints a red boat. " * 9, "chosen": " Bob", "rejected": " you"},
        ]
    )
    settings = {"max_length": 8, "truncation_mode": mode}
    trainer = kind.build(str(llama_folder), settings=settings, train_dataset=data)
    assert len(trainer.train_dataset) == kept
    assert tiny.tokenizer().decode(trainer.train_dataset[0]["prompt_ids"]) == "Hi"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [1, 2, 3, 6, 0], [7, 8, 10, 11, 12]]),
        ({"max_length": 4}, [[1, 2, 3, 4], [7, 8, 9, 0], [1, 2, 3, 6], [7, 8, 10, 11]]),
        (
            {"max_length": 4, "truncation_mode": "keep_end"},
            [[2, 3, 4, 5], [7, 8, 9, 0], [1, 2, 3, 6], [8, 10, 11, 12]],
        ),
        (
            {"pad_to_multiple_of": 6},
            [[1, 2, 3, 4, 5, 0], [7, 8, 9, 0, 0, 0], [1, 2, 3, 6, 0, 0], [7, 8, 10, 11, 12, 0]],
        ),
    ],
    ids=["plain", "keep_start", "keep_end", "multiple"],
)
def test_batches_are_exact(
    settings: dict[str, Any], expected: list[list[int]], kind: Kind, llama_folder: Path
) -> None:
    """Chosen rows come first and rejected ones after, padded on the right; masks mark text and response."""
    trainer = kind.build(str(llama_folder), settings=settings, train_dataset=tiny.preference(2))
    collator = trainer.data_collator
    assert isinstance(collator, DataCollatorForPreference)
    assert collator.pad_token_id == tiny.tokenizer().pad_token_id == 0
    batch = collator(
        [
            {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6], "ref_chosen_logps": -1.5},
            {"prompt_ids": [7, 8], "chosen_ids": [9], "rejected_ids": [10, 11, 12], "ref_chosen_logps": -2.5},
        ]
    )
    ids = torch.tensor(expected)
    prompt = torch.isin(ids, torch.tensor([1, 2, 3, 7, 8]))
    assert batch.keys() == {"input_ids", "attention_mask", "completion_mask", "ref_chosen_logps"}
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["attention_mask"].bool(), ids != 0)
    assert torch.equal(batch["completion_mask"].bool(), (ids != 0) & ~prompt)
    assert torch.equal(batch["ref_chosen_logps"], torch.tensor([-1.5, -2.5]))


def test_a_collator_of_ones_own_is_used(kind: Kind, llama_folder: Path) -> None:
    """`data_collator` sees the tokenised rows and its batches are trained on."""
    seen: list[int] = []

    class Counting(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            seen.extend(example["prompt_ids"][0] for example in examples)
            return super().torch_call(examples)

    trainer = kind.build(str(llama_folder), train_dataset=tiny.preference(6), data_collator=Counting(pad_token_id=0))
    trainer.train()
    assert len(seen) == 6


@pytest.mark.parametrize("conversational", [False, True], ids=["standard", "conversational"])
def test_a_stream_trains_as_the_rows_that_it_streams(conversational: bool, folder: str, llama_folder: Path) -> None:
    """An IterableDataset with unknown columns gives the same losses with both classes."""
    rows = tiny.preference(6, conversational).to_list()

    def stream() -> Iterator[dict[str, Any]]:
        yield from rows

    dpo, spin = train_both(
        folder, lambda kind: kind.build(str(llama_folder), train_dataset=IterableDataset.from_generator(stream))
    )
    assert len(steps(spin)) == 3
    assert isinstance(spin.train_dataset, IterableDataset)
    assert set(IDS) <= next(iter(spin.train_dataset)).keys()
    assert spin.args.accelerator_config.dispatch_batches is dpo.args.accelerator_config.dispatch_batches is False


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ValueError, "`train_dataset` is required"),
        (DatasetDict({"train": tiny.preference(2)}), TypeError, "must be a `Dataset` or `IterableDataset`"),
        (tiny.preference(2).to_list(), TypeError, "must be a `Dataset` or `IterableDataset`, got `list`"),
    ],
    ids=["none", "dict", "list"],
)
def test_what_is_no_training_dataset_is_refused(
    data: Any, error: type[Exception], message: str, kind: Kind, llama_folder: Path
) -> None:
    """The message is the same for both classes."""
    with pytest.raises(error, match=message):
        kind.build(str(llama_folder), train_dataset=data)


def test_a_tokenizer_without_pad_token_pads_with_eos(kind: Kind, folder: str) -> None:
    """Tokenizer, collator and model configuration agree on it."""
    path = tiny.save(f"{folder}/start", tiny.model(), tiny.tokenizer(pad_token=None))
    trainer = kind.build(str(path), train_dataset=tiny.preference(2))
    eos = tiny.tokenizer().eos_token_id
    assert trainer.processing_class.pad_token_id == trainer.data_collator.pad_token_id == eos
    assert trainer.model.config.pad_token_id == trainer.model.generation_config.pad_token_id == eos


def test_the_pad_token_can_be_chosen(kind: Kind, llama_folder: Path) -> None:
    """`pad_token` in the settings takes precedence over the tokenizer's own; one that isn't in the vocabulary is refused."""
    data = tiny.preference(2)
    trainer = kind.build(str(llama_folder), settings={"pad_token": "<|im_start|>"}, train_dataset=data)
    assert trainer.data_collator.pad_token_id == tiny.tokenizer().convert_tokens_to_ids("<|im_start|>")
    with pytest.raises(ValueError, match=r"'<nothing>'.*is not found in the vocabulary"):
        kind.build(str(llama_folder), settings={"pad_token": "<nothing>"}, train_dataset=data)


def test_what_is_no_processing_class_is_refused(kind: Kind, llama_folder: Path) -> None:
    """The message has the names of the allowed classes."""
    with pytest.raises(TypeError, match="must be either a `PreTrainedTokenizerBase` or a `ProcessorMixin`"):
        kind.build(str(llama_folder), train_dataset=tiny.preference(2), processing_class=object())
