"""Text that already has a template applied is refused or reported, rather than templated twice."""

import re
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.data.load import as_conversations
from spin_trl.data.prepare import prepare, prepare_and_count
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError
from trl_templates import TEMPLATES, family_tokenizer

OPENED = "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"


def rows(*prompts: str) -> Dataset:
    """Return rows of text as conversations."""
    return as_conversations(Dataset.from_list([{"prompt": prompt, "completion": "A boat."} for prompt in prompts]))


@pytest.mark.parametrize("prompt", [OPENED, f"\n{OPENED}", f"<|im_start|>system\nBe brief.<|im_end|>\n{OPENED}"])
def test_text_that_begins_as_the_template_does_is_refused(prompt: str) -> None:
    """The error says what to do: without `as_conversations`, the text is read unchanged."""
    with refused(DataError, "Row 1", "message 0", "role 'user'", "'<|im_start|>", "`as_conversations`"):
        prepare(rows("Which?", prompt), PairTemplate(tiny.tokenizer()))
    plain = Dataset.from_list([{"prompt": prompt, "completion": "A boat."}])
    assert len(prepare(plain, PairTemplate(tiny.tokenizer()))) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "What does <|im_start|>user mean?",
        "[INST] Which? [/INST]",
        "### Instruction:\nSort these.",
        "Hi\n\nHuman: Which?",
    ],
)
def test_markers_of_templates_in_a_prompt_are_counted_and_named(prompt: str) -> None:
    """They may be intended, so nothing is refused."""
    found = prepare_and_count(rows("Which?", prompt, prompt), PairTemplate(tiny.tokenizer()))
    assert found.notes["templated before"] == (2, 1)
    assert names(found.remarks[0], 2, "train", "row 1", "prompt", "`as_conversations`")


def test_usual_text_is_not_named() -> None:
    found = prepare_and_count(rows("a <b> [c] # d", "Instruction: <user>", "USER: x"), PairTemplate(tiny.tokenizer()))
    assert found.notes == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen2_5", "<|im_start|>user"),
        ("llama3", "<|start_header_id|>user<|end_header_id|>"),
        ("gemma", "<start_of_turn>user"),
        ("gptoss", "<|start|>user<|message|>"),
    ],
)
def test_what_stands_before_a_users_text_is_learned_from_the_template(name: str, text: str) -> None:
    """It excludes the default system prompt, BOS and the end of the previous turn."""
    (path,) = [path for path in TEMPLATES if path.stem == name]
    opening: Any = PairTemplate(family_tokenizer(path))._opening
    assert opening is not None
    assert opening.text == text
    assert text.startswith(re.escape(opening.token).replace("\\", ""))
