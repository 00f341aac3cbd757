"""The chat templates that TRL ships, each with the special tokens published with the models that use it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trl
from transformers import GenerationConfig, PreTrainedTokenizerFast

import tiny

TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))


@dataclass(frozen=True)
class Family:
    """The files published with the models that use a template.

    Attributes:
        bos: beginning of a text, or None.
        eos: the tokenizer's EOS.
        more: further EOS tokens of generation_config.json.
        end: how an assistant's turn ends when such a model generates it.
        parts: whether the template wants content as a list of parts.
    """

    bos: str | None
    eos: str
    more: tuple[str, ...]
    end: str
    parts: bool = False


FAMILIES = {
    "cohere": Family("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", (), "<|END_OF_TURN_TOKEN|>"),
    "cohere2": Family("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", (), "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek": Family("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", (), "<｜end▁of▁sentence｜>"),
    "diffusion_gemma": Family("<bos>", "<eos>", ("<turn|>",), "<turn|>"),
    "gemma": Family("<bos>", "<eos>", ("<end_of_turn>",), "<end_of_turn>"),
    "gemma4": Family("<bos>", "<eos>", ("<turn|>",), "<turn|>"),
    # GLM writes nothing at the end of a turn: it stops at the token that begins the next one.
    "glm4moe": Family(None, "<|endoftext|>", ("<|user|>", "<|observation|>"), "<|user|>"),
    "gptoss": Family("<|startoftext|>", "<|return|>", ("<|endoftext|>", "<|call|>"), "<|return|>"),
    "idefics3": Family(
        "<|begin_of_text|>", "<|end_of_text|>", ("<end_of_utterance>",), "<end_of_utterance>", parts=True
    ),
    "lfm2": Family("<|startoftext|>", "<|im_end|>", (), "<|im_end|>"),
    "llama3": Family("<|begin_of_text|>", "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>"), "<|eot_id|>"),
    "llava": Family("<s>", "</s>", (), "</s>", parts=True),
    "muse": Family("<|begin_of_text|>", "<|eot|>", ("<|eom|>",), "<|eot|>"),
    "nemotron": Family("<s>", "<|im_end|>", ("</s>",), "<|im_end|>"),
    "phi3": Family(None, "<|endoftext|>", ("<|assistant|>", "<|end|>"), "<|end|>"),
    "qwen": Family(None, "<|im_end|>", ("<|endoftext|>",), "<|im_end|>"),
    "smolvlm": Family("<|im_start|>", "<end_of_utterance>", (), "<end_of_utterance>", parts=True),
}
SPECIAL = re.compile(r"<[|｜][^<>\s{}'\"]{1,40}[|｜]?>|<[a-z_]+\|>|</?s>|<(?:start|end)_of_\w+>")


def family_of(path: Path) -> Family:
    """Return the family with the longest name that a template's name begins with."""
    return FAMILIES[max((name for name in FAMILIES if path.stem.startswith(name)), key=len)]


def options_of(path: Path) -> dict[str, Any]:
    """Return the arguments with which a template works."""
    return {"enable_thinking": False} if path.stem.startswith("nemotron") else {}


def family_tokenizer(path: Path, eos_token: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a template of TRL's and all the special tokens that it writes."""
    return tokenizer_with(path.read_text(encoding="utf-8"), family_of(path), eos_token)


def tokenizer_with(source: str, family: Family, eos_token: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a template and all the special tokens that it writes."""
    tokenizer = tiny.tokenizer(chat_template=source, eos_token=eos_token or family.eos, pad_token="<|pad|>")
    special = [*SPECIAL.findall(source), family.eos, *family.more]
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(special))})
    if family.bos is not None:
        tokenizer.add_special_tokens({"bos_token": family.bos})
    tokenizer.model_max_length = 4096
    return tokenizer


def generation_config(path: Path, tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Return the generation config that a family's models publish."""
    family = family_of(path)
    return GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids([family.eos, *family.more]))


def conversation(path: Path, answer: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a prompt and its answer, in the form of content that the template wants."""
    wrap = (lambda text: [{"type": "text", "text": text}]) if family_of(path).parts else (lambda text: text)
    return [{"role": "user", "content": wrap("Which boat?")}], {"role": "assistant", "content": wrap(answer)}


CALLS = [
    {
        "id": f"call0000{number}",
        "type": "function",
        "function": {"name": name, "arguments": {"colour": colour, "number": number}},
    }
    for number, (name, colour) in enumerate([("find_boat", "dark red"), ("find_lamp", "it's blue")])
]
"""Two tool calls in OpenAI's format."""

RESULTS = [
    {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": f"{number + 3} found."}
    for number, call in enumerate(CALLS)
]
"""The tools' answers."""

_USER, _ANSWER = {"role": "user", "content": "Which boat?"}, {"role": "assistant", "content": "The red one."}
_EARLIER = [_USER, {"role": "assistant", "content": "Boats are red.", "reasoning_content": "Let me think of boats."}]
SHAPES: dict[str, list[dict[str, Any]]] = {
    "plain": [_USER, _ANSWER],
    "parts": [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in (_USER, _ANSWER)],
    "system": [{"role": "system", "content": "Be brief."}, _USER, _ANSWER],
    "earlier thinking in a field": [*_EARLIER, _USER, _ANSWER],
    "earlier thinking in the text": [
        _USER,
        {"role": "assistant", "content": "<think>\nLet me think of boats.\n</think>\n\nBoats are red."},
        _USER,
        _ANSWER,
    ],
    "one tool round trip": [_USER, {"role": "assistant", "tool_calls": CALLS[:1]}, RESULTS[0], _ANSWER],
    "parallel calls": [_USER, {"role": "assistant", "tool_calls": CALLS}, *RESULTS, _ANSWER],
    "text beside a call": [
        _USER,
        {"role": "assistant", "content": "I'll look.", "tool_calls": CALLS[:1]},
        RESULTS[0],
        _ANSWER,
    ],
    "a call as the answer": [_USER, {"role": "assistant", "tool_calls": CALLS[:1]}],
    "thinking of the answer": [_USER, {**_ANSWER, "reasoning_content": "Let me think of boats."}],
}
"""Conversations by what they contain; the last message is the answer that is trained on."""
