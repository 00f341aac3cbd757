"""Functions that settings name: with other signatures, that fail, or that return something other than expected."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .materials import Materials
from .parts import Input, settings_of, write_recipe

ROWS = "[{'prompt': f'What is {n}?', 'completion': f'It is {n}.'} for n in range(4)]"

SIGNATURES = (
    "", "split", "split, more", "split=None", "*", "*args", "**more", "*, split", "*, other", "split, /", "split: int",
    "a, b, c", "a, b=1",
    "prompt, real, generated", "prompt, real, generated, more", "*args, **more",
)  # fmt: skip

RETURNED = (
    f"datasets.Dataset.from_list({ROWS})", f"datasets.DatasetDict(train=datasets.Dataset.from_list({ROWS}))", ROWS,
    "None", "1", "''", "'a'",
    "[]", "{}", "float('nan')", "float('inf')", "-1e400", "10 ** 400", "True", "object()",
    "datasets.Dataset.from_list([])", "1j", "b'1'", "'0.5'",
    "datasets.Dataset.from_list([{'a': 1}])", f"datasets.Dataset.from_list({ROWS}).to_iterable_dataset()",
    "(n for n in range(3))", "print",
    f"datasets.Dataset.from_list({ROWS}).with_format('torch')", f"datasets.Dataset.from_list({ROWS}).to_pandas()",
    "datasets", "{'a': 1.0}",
    f"datasets.Dataset.from_list({ROWS}).with_transform(lambda rows: 1 / 0)", "{'a': 'b'}", "{1: 2}", "{'a': None}",
    "{'': 0.5}", "[0.5]",
    f"datasets.Dataset.from_list({ROWS}).with_transform(lambda rows: rows)", f"iter({ROWS})", "{'score': {'a': 1}}",
    "{'nll': 0.1}", "{'a/b': 1}",
    "numpy.float32(0.5)", "numpy.array([0.5])", "numpy.array([1, 2])", "torch.tensor(0.5)", "torch.tensor([1, 2])",
    "__import__('decimal').Decimal(1)",
    "{'a\\x00b': 1}", "{'\\ud800': 1}", "{'a' * 500: 1}", "{str(n): n for n in range(500)}",
)  # fmt: skip

BODIES = (
    "raise ValueError('\\x1b[31m\\ud800')", "raise KeyError", "raise SystemExit(3)", "raise KeyboardInterrupt",
    "raise Exception", "1 / 0",
    "raise MemoryError", "raise StopIteration", "return f(*args) if 0 else f()",
    "raise OSError(28, 'No space')",
    "import nothing_of_this_name", "exit()", "open('nothing')",
    "raise Exception('a' * 100_000)", "yield 1", "assert False",
    "print('a' * 10_000)", "raise type('Odd', (Exception,), {'__str__': None})()",
    "__import__('warnings').warn('a')", "__import__('logging').error('a')",
    "raise UnicodeDecodeError('utf-8', b'', 0, 1, 'a')",
)  # fmt: skip

TOPS = (
    "1 / 0", "import nothing_of_this_name", "raise SystemExit", "raise KeyboardInterrupt",
    "def (", "\x00", "import mine", "f = 3",
    "class f:\n    pass", "f = lambda: 0", "async def f(split):\n    return 1",
    "class f:\n    def __init__(self, split):\n        pass",
    "import functools\nf = functools.partial(print)", "f = print", "f = int", "f = type",
    "def __getattr__(name):\n    raise ValueError(name)",
    "__name__ = 3", "import sys\nsys.modules[__name__] = None", "del f",
)  # fmt: skip
"""Text of the module after the function."""

NAMES = (
    "mine:g", "mine:", ":f", "mine:f.g", "mine.py:f",
    "./mine:f", "mine::f", "mine:f:g",
    "mine:__name__", "other:f", "mine f", "mine:f()", "builtins:exit", "builtins:input", "builtins:print", "sys:exit",
    "mine:f\x00", "é:f",
    "json:loads", "datasets:load_dataset", "this:s", "antigravity:a",
)  # fmt: skip


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Return a module next to a recipe that names its function, for the data or as a scorer; most modules are valid."""
    which = rng.choice(["dataset_name", "dataset_name", "scorer", "scorer", "held_out_name"])
    usual = "prompt, real, generated" if which == "scorer" else "split"
    signature = rng.choice(SIGNATURES) if rng.random() < 0.3 else usual
    body = rng.choice(BODIES) if rng.random() < 0.25 else f"return {rng.choice(RETURNED)}"
    top = rng.choice(TOPS) if rng.random() < 0.15 else ""
    name = rng.choice(NAMES) if rng.random() < 0.2 else "mine:f"
    heading = "import datasets, numpy, torch\n"
    keyword = "async def" if rng.random() < 0.05 else "def"
    parts = [heading, f"{keyword} f({signature}):\n    {body}\n", top]
    (folder / "mine.py").write_text("\n".join(parts), encoding="utf-8", errors="surrogatepass")
    changes = {"held_out_fraction": 0.3, "scorer": [name]} if which == "scorer" else {which: name}
    if which == "scorer" and rng.random() < 0.3:
        changes |= {"metric_for_best_iteration": rng.choice(["score", "score/a", "score_greedy", "score/"])}
    recipe = write_recipe(folder, settings_of(materials, **changes))
    return Input(["start", recipe], f"{which}: {name!r}, f({signature}): {body:.80} {top!r:.80}")
