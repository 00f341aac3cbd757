"""Odd values, changed values and damaged bytes, for the inputs of every kind."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

import yaml

RAW = {
    "@@DEEP@@": "[" * 300 + "]" * 300,
    "@@DEEPER@@": "[" * 50_000 + "]" * 50_000,
    "@@DEEP MAPPING@@": '{"a": ' * 3_000 + "1" + "}" * 3_000,
    "@@DIGITS@@": "9" * 5_000,
    "@@MINUS DIGITS@@": "-" + "9" * 5_000,
    "@@BEYOND FLOAT@@": "1e400",
    "@@FRACTION@@": "0." + "3" * 5_000,
}
"""Text that no writer writes, by the placeholder that stands for it until it is written."""

TEXTS = (
    "", " ", "\n", "\t", "\x00", "a\x00b", "null", "None", "true", "nan", "inf", "-1", "0", "1", "1e400", "[]", "{}",
    "[1, 2]",
    '{"a": 1}', "2020-01-01", "2020-01-01T00:00:00", "1:30", "\ud800", "a\udcffb", "\ufeff", "\u202eabc", "\u200b",
    "\x1b[31m",
    "\x9b", "é", "日本語", "مرحبا", "👩‍👩‍👧", "e" + "\u0301" * 50, "a" * 300, "word " * 2_000, "%s%s%n", "{0}",
    "{{ 1/0 }}",
    "<script>", "../..", "/dev/null", "-", "--", "=", ",", "a=b", "<|im_end|>", "<|im_start|>assistant\n", "\r\n",
    "\U000e0041",
    "module:function", "json:loads", "os:getcwd", "user", "assistant", "\\", "'", '"', "#", "*a", "&a",
    "!!python/none",
)  # fmt: skip

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 0.0, -0.0, 0.5, 1.0,
    1.5, -0.1,
    1e-300, 5e-324, 1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip

OTHERS: tuple[Any, ...] = (
    None, True, False, [], {}, [None], [[]], [{}], {"": ""}, {"a": None}, [1, "a"], ["a", "b"], [math.nan], [0.1, 0.2],
    {"role": "user"}, {"role": ["user"], "content": "a"}, [{"role": "assistant", "content": None}], {"content": []},
)  # fmt: skip


def odd(rng: Random) -> Any:
    """Return a value that hardly any place expects."""
    match rng.randrange(10):
        case 0 | 1 | 2:
            return rng.choice(TEXTS)
        case 3 | 4 | 5:
            return rng.choice(NUMBERS)
        case 6 | 7 | 8:
            return copy.deepcopy(rng.choice(OTHERS))
        case _:
            return rng.choice(list(RAW))


def changed(rng: Random, value: Any, times: int = 1) -> Any:
    """Return a copy of a value of lists and mappings, with changes somewhere in it."""
    whole = [copy.deepcopy(value)]
    for _ in range(times):
        where, key = rng.choice(list(_places(whole, [])))
        _change(rng, where, key)
    return whole[0]


def _places(within: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return every container with each of its keys, or indices."""
    keys = list(within) if isinstance(within, dict) else range(len(within)) if isinstance(within, list) else ()
    for key in keys:
        found.append((within, key))
        _places(within[key], found)
    return found


def _change(rng: Random, where: Any, key: Any) -> None:
    value = where[key]
    match rng.randrange(9):
        case 0 if isinstance(where, dict) or len(where) > 1:
            del where[key]
        case 1 if isinstance(where, dict):
            where[rng.choice(TEXTS)] = where.pop(key)
        case 2 if isinstance(where, dict):
            where[rng.choice(["", "a", "id", "content", "completion", "prompt", "messages", "version"])] = odd(rng)
        case 2:
            where.insert(key, rng.choice([odd(rng), copy.deepcopy(value)]))
        case 3:
            where[key] = [value]
        case 4:
            where[key] = {rng.choice(["a", "", "0"]): value}
        case 5:
            where[key] = _of_same_kind(rng, value)
        case 6:
            where[key] = str(value)
        case _:
            where[key] = odd(rng)


def _of_same_kind(rng: Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return rng.choice([rng.choice(TEXTS), value + rng.choice(TEXTS), value[: len(value) // 2], value * 50])
    if isinstance(value, int | float):
        return rng.choice([rng.choice(NUMBERS), -value, value + 1])
    if isinstance(value, list):
        return rng.choice([[], value * 3, value[::-1], value[:1]])
    if isinstance(value, dict):
        return rng.choice([{}, list(value.values()), dict(list(value.items())[:1])])
    return odd(rng)


def as_json(value: Any, **options: Any) -> str:
    """Return a value as JSON, with text that no writer writes in place of its placeholders."""
    text = json.dumps(value, **options)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def as_yaml(value: Any) -> str:
    """Return a value as YAML, likewise."""
    text = yaml.safe_dump(value, sort_keys=False, width=1_000)
    for name, raw in RAW.items():
        text = text.replace(f"'{name}'", raw)
    return text


def damaged(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Return a description of the change to a file's content, and the new content."""
    at, size = rng.randrange(len(content) + 1), len(content)
    length = min(rng.choice([1, 2, 8, 64, 512]), size - at)
    match rng.randrange(10):
        case 0:
            return "emptied", b""
        case 1:
            return f"cut at {at}", content[:at]
        case 2 if size:
            bit = rng.randrange(8 * size)
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            return f"bit {bit} flipped", bytes(flipped)
        case 3:
            return f"{length} bytes at {at} made NUL", content[:at] + bytes(length) + content[at + length :]
        case 4:
            return f"{length} random bytes at {at}", content[:at] + rng.randbytes(length) + content[at + length :]
        case 5:
            return f"{length} bytes at {at} twice", content[: at + length] + content[at:]
        case 6:
            return f"{length} bytes at {at} left out", content[:at] + content[at + length :]
        case 7:
            return "all NUL", bytes(size)
        case 8:
            return "random bytes", rng.randbytes(rng.choice([1, 16, 300]))
        case _:
            return "last byte cut", content[:-1]


ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig", "shift_jis", "utf-7")


def encoded(rng: Random, text: str) -> tuple[str, bytes]:
    """Return a text in an encoding other than UTF-8, with a letter beyond ASCII."""
    encoding = rng.choice(ENCODINGS)
    return encoding, text.encode(encoding, "replace")


def as_utf8(text: str) -> bytes:
    """Return a text as UTF-8 bytes, with lone surrogates as the three bytes that some writers leave of them."""
    return text.encode("utf-8", "surrogatepass")
