"""Recipes: settings with one change, and YAML that is damaged, in another encoding, or more than it seems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from . import values
from .materials import Materials
from .parts import Input, reading_command, settings_of

SETTINGS: tuple[dict[str, Any], ...] = (
    {"env": {"A": "b"}, "chat_template_kwargs": {"style": "short"}},
    {"column_mapping": {"prompt": "prompt"}, "scorer": ["exact_match"], "held_out_fraction": 0.3},
    {
        "learning_rate": [1e-3],
        "degeneration_warn": {"empty": 0.1},
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 0.1],
    },
    {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj"], "model_init_kwargs": {"dtype": "float32"}},
)
"""Settings in addition to those of the smallest recipe, which may be changed, too."""


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a recipe, and the command that reads it."""
    settings = settings_of(materials, **rng.choice(SETTINGS))
    luck = rng.random()
    if luck < 0.3:
        times = rng.choice([1, 1, 2, 4])
        what, content = f"{times} changes", values.as_utf8(values.as_yaml(values.changed(rng, settings, times)))
    elif luck < 0.45:
        what, content = values.damaged(rng, values.as_utf8(values.as_yaml(settings)))
    elif luck < 0.6:
        what, content = values.encoded(rng, values.as_yaml(settings) + "run_name: é\n")
    elif luck < 0.9:
        what, text = _with_lines(rng, settings)
        content = values.as_utf8(text)
    else:
        what, change = rng.choice(WHOLE)
        content = change(values.as_yaml(settings)).encode("utf-8", "surrogatepass")
    name = rng.choice(["small.yaml"] * 6 + ["recipe.yaml", "folder/spin.yaml", "small"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    given = "folder" if name.startswith("folder") else name
    return Input([reading_command(rng), given], f"{name}: {what}")


def _with_lines(rng: Random, settings: dict[str, Any]) -> tuple[str, str]:
    """Add lines to a recipe that mean more, or something else, than they seem to."""
    lines = rng.choice(LINES)
    name = lines.partition(":")[0]
    text = values.as_yaml({key: value for key, value in settings.items() if key != name})
    for key, raw in values.RAW.items():
        lines = lines.replace(key, raw)
    return f"with {lines[:80]!r}", text + lines + "\n"


NAMED = (
    "env",
    "chat_template_kwargs",
    "column_mapping",
    "model_init_kwargs",
    "degeneration_warn",
    "per_iteration",
    "lr_scheduler_kwargs",
)
"""Settings that are mappings."""

OF_MAPPINGS = (
    "3", "a", "[a]", "[[a, b]]", "{1: 2}", "{null: a}", "{a: null}", "{[1, 2]: 3}", "{a: {b: c}}", "&a {a: *a}", "'{'",
    "'[1]'", "'{\"a\": 1}'",
    "{'': ''}", "{'a=b': c}", '{"a\\0": b}', '{a: "b\\0"}', '{a: "\\ud800"}', "{a: @@DIGITS@@}", "{a: .nan}",
    "@@DEEP@@", "{a: @@DEEP@@}",
    "!!set {a}", "!!binary aGFsbG8=", "2020-01-01", "{true: a}", "{a: [1, 2]}", "{a: 2020-01-01}", "'@@DEEPER@@'",
    "{a: !!binary aGFsbG8=}",
)  # fmt: skip

OTHERS = ("learning_rate", "seed", "num_iterations", "scorer", "max_length", "loss_type", "beta")
"""Settings that are not mappings."""

OF_OTHERS = (
    "@@DIGITS@@", "@@MINUS DIGITS@@", "@@BEYOND FLOAT@@", "@@FRACTION@@", "@@DEEP@@", "&a [*a]", "1:30", "0x10", "0b1",
    "1_000", "'1_000'", "٣", "2020-01-01", ".nan", ".inf", "-.inf", "~", "!!float a", "!!int ''", "!!bool a", "{}", "[[]]",
)  # fmt: skip

LINES = (
    *(f"{name}: {value}" for name in NAMED for value in OF_MAPPINGS),
    *(f"{name}: {value}" for name in OTHERS for value in OF_OTHERS),
    "1: 2", "null: 3", "true: false", "1.5: 2", "2020-01-01: 3", "? [a, b]\n: 3", "? {a: b}\n: 3", "'': 3", "' ': 3",
    '"\\0": 3', ".nan: 3",
    '"\\ud800": 3', "<<: {seed: 3}", "<<: 3", "<<: [3]", "&a seed: *a", "seed: &a 3\nmax_steps: *a", "seed: *unknown",
    "@@DIGITS@@: 3",
    "seed: 1\nseed: 2", "\tseed: 1", "seed:\t1", "seed: 1\n\tmax_steps: 2", " seed: 1", "seed 1", "seed:1", "- a",
    "---\nseed: 1", "...\nseed: 1",
    "%YAML 9.9\n---\nseed: 1", "seed: !!python/object/apply:os.getcwd []", "seed: !!python/name:os.system",
    "seed: !unknown 3",
    "seed: !!timestamp a", "seed: !!timestamp 9999-99-99", "seed: 2020-13-45", "seed: !!omap [a]", "seed: !!pairs 3",
    "seed: !!int a",
    "seed: !!int '0b'", "seed: !!int 1:99:x", "seed: !!float 1:x", "seed: |\n  a", "seed: >\n  1", "seed: '",
    'seed: "\\x"', 'seed: "\\UFFFFFFFF"',
    "seed: \x00", "seed: \x07", "seed: \ud800", "seed: @", "seed: `", "run_name: \U0001f600", "# é", "seed: {",
    "seed: ]", "seed: !!set {1, 2}",
    "python: {}", "python: 3", "python: {model: a, quantization_config: 3}", "python:", "env:", "env: {PATH: ''}",
    "env: {HF_HOME: 3}",
    "env: {LD_PRELOAD: a}", "env: {OMP_NUM_THREADS: a}", "env: {RANK: a}", "env: {WORLD_SIZE: '2'}",
    "env: {LOCAL_RANK: '5'}",
    "env: {CUDA_VISIBLE_DEVICES: a}", "env: {TQDM_DISABLE: []}", "env: {ACCELERATE_USE_FSDP: 'true'}",
    "env: {LANG: xx}", "env: {HOME: ''}",
)  # fmt: skip


def _bomb(text: str) -> str:
    """Return nine lines that expand to 10^9 words."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9)]
    return "\n".join([*lines, text])


def _bomb_in_a_setting(name: str) -> Callable[[str], str]:
    def write(text: str) -> str:
        kept = [line for line in text.splitlines() if not line.startswith((name, " ", "-"))]
        inner = "[lol]"
        for at in range(24):
            inner = f"[&b{at} {inner}, *b{at}]"
        return "\n".join([*kept, f"{name}: {inner}"])

    return write


WHOLE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("empty", lambda text: ""),
    ("a comment", lambda text: "# nothing\n"),
    ("a list", lambda text: "- a\n- b\n"),
    ("a word", lambda text: "word"),
    ("a number", lambda text: "3"),
    ("a date", lambda text: "2020-01-01"),
    ("two documents", lambda text: f"{text}---\n{text}"),
    ("with tabs", lambda text: text.replace(" ", "\t")),
    ("with old line ends", lambda text: text.replace("\n", "\r")),
    ("with line ends of Unicode", lambda text: text.replace("\n", "\u2028")),
    ("every line twice", lambda text: "".join(line + "\n" + line + "\n" for line in text.splitlines())),
    ("JSON", lambda text: values.as_json({"seed": 1, "dataset_name": "a"})),
    ("a bomb of aliases", _bomb),
    ("a bomb of aliases as scorer", _bomb_in_a_setting("scorer")),
    ("a bomb of aliases as chat_template_kwargs", _bomb_in_a_setting("chat_template_kwargs")),
    ("a bomb of aliases as column_mapping", _bomb_in_a_setting("column_mapping")),
    ("a mapping in itself", lambda text: "&a\nseed: 1\nchat_template_kwargs: *a\n"),
    ("deep", lambda text: "[" * 2_000),
    ("deeper", lambda text: "[" * 20_000 + "]" * 20_000),
    ("deep mappings", lambda text: "{a: " * 2_000 + "1" + "}" * 2_000),
    ("deep by indentation", lambda text: "".join(" " * at + "a:\n" for at in range(1_500))),
    ("deep by dashes", lambda text: "- " * 5_000 + "a"),
    ("many settings", lambda text: text + "".join(f"unknown_{number}: 1\n" for number in range(2_000))),
    ("long", lambda text: text + "# " + "a" * 2_000_000),
    ("a long name", lambda text: text + "a" * 100_000 + ": 1\n"),
    ("a long text", lambda text: text + "run_name: " + "a" * 100_000 + "\n"),
    ("a mark of UTF-8 twice", lambda text: "\ufeff\ufeff" + text),
    ("a page of HTML", lambda text: "<!DOCTYPE html>\n<html lang='en'>\n</html>"),
    ("a program", lambda text: "#!/bin/sh\nset -e\necho $HOME > /dev/null\n"),
)
