"""The embedded task of the quickstart: render five attributes, given in any order, as one of four sentences.

    Cleo red found kite barn>        ->        A kite, red: Cleo found it in the barn.

The human answer uses one of the four patterns at random, so an answer is right if it is any of the four renderings. Small
enough to be learned in seconds, and with a property that matters here: whether a sampled answer is right can be seen.
"""

from __future__ import annotations

import random

from datasets import Dataset

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "name": ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hugo", "Ida", "Jack"),
    "verb": ("bought", "found", "hid", "kept", "left", "lost", "made", "moved", "sold", "won"),
    "colour": ("black", "blue", "brown", "green", "grey", "pink", "red", "teal", "white", "yellow"),
    "thing": ("bag", "bell", "bike", "book", "cup", "drum", "hat", "kite", "lamp", "ring"),
    "place": ("attic", "barn", "cave", "den", "forest", "garden", "hall", "mill", "park", "tower"),
}
PATTERNS = (
    "{name} {verb} a {colour} {thing} in the {place}.",
    "In the {place} {name} {verb} a {colour} {thing}.",
    "A {thing}, {colour}: {name} {verb} it in the {place}.",
    "{name} in the {place}: {verb} a {thing}, {colour}.",
)
END_OF_PROMPT = ">"
SPLITS = {"train": slice(0, 1000), "test": slice(1000, 2000)}


def load(split: str) -> Dataset:
    """1,000 prompts with a human answer each.

    Args:
        split: `train` or `test`; no prompt is in both.

    Returns:
        A dataset with the columns `prompt` and `completion`.
    """
    return Dataset.from_list(make_rows(2000, seed=0)[SPLITS[split]])


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Rows with different attributes, as `prompt` and `completion`.

    Args:
        count: how many, at most 100,000: there are no more combinations.
        seed: of the choice.
    """
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[tuple[str, ...]] = set()
    while len(rows) < count:
        words = [rng.choice(choices) for choices in ATTRIBUTES.values()]
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        rng.shuffle(words)
        prompt = " ".join(words) + END_OF_PROMPT
        rows.append({"prompt": prompt, "completion": rng.choice(renderings(prompt))})
    return rows


def renderings(prompt: str) -> list[str]:
    """The four right answers to a prompt."""
    words = set(prompt.removesuffix(END_OF_PROMPT).split())
    found = {name: next(iter(words.intersection(choices))) for name, choices in ATTRIBUTES.items()}
    return [pattern.format(**found) for pattern in PATTERNS]


def score(prompt: str, real: str, generated: str) -> float:
    """1 if the generated answer is one of the four renderings, else 0; which of them the human chose does not matter."""
    return float(generated in renderings(prompt))
