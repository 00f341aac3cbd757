"""A template's arguments are its own variables; arguments that would control the function applying it are refused."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

import tiny
from messages import names
from spin_trl.data.template.arguments import OF_APPLYING, wrong_arguments

ANSWERED = [{"role": "user", "content": "Which boat?"}, {"role": "assistant", "content": "The red one."}]


@pytest.mark.parametrize(
    "given", [[], ["enable_thinking"], ["style", "documents"], ["Tools", "tool", "template"], [1, None]], ids=str
)
def test_a_templates_own_variables_are_taken(given: list[object]) -> None:
    assert wrong_arguments(given) is None


@pytest.mark.parametrize(
    "name",
    [
        "self",
        "conversation",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ],
)
def test_what_the_function_takes_for_itself_is_named(name: str) -> None:
    said = wrong_arguments(["style", name])
    assert said is not None
    assert names(said, "`chat_template_kwargs`", f"'{name}'", "`apply_chat_template`")
    assert not names(said, "style")


def test_all_that_are_wrong_are_named_at_once_in_their_order() -> None:
    said = wrong_arguments({"tokenize": True, "enable_thinking": False, "padding": True})
    assert said is not None
    assert names(said, "'tokenize', 'padding'")


@pytest.mark.parametrize("name", ["documents", "enable_thinking"])
def test_a_name_that_is_taken_reaches_the_template(name: str) -> None:
    """So does `documents`, a parameter of the function that is only passed on."""
    assert wrong_arguments([name]) is None
    tokenizer = tiny.tokenizer(chat_template=f"{{{{ {name}[0]['text'] }}}}")
    given = {name: [{"title": "Boats", "text": "red"}]}
    assert tokenizer.apply_chat_template(ANSWERED, tokenize=False, **given) == "red"


def test_a_parameter_that_a_later_version_of_transformers_adds_is_refused_too() -> None:
    """The names are read from the installed function."""
    code = PreTrainedTokenizerBase.apply_chat_template.__code__
    parameters = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    assert parameters - OF_APPLYING <= {"documents"}
