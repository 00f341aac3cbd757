"""The embedded task of the quickstart: render five attributes, given in any order, as one of four sentences.

    Cleo red found kite barn>        ->        A kite, red: Cleo found it in the barn.

The human answer uses one of the four patterns at random, so an answer is right if it equals any of the four renderings. The
task is small enough to be learned in seconds, and every sampled answer can be checked.
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
    """Load 1,000 prompts, each with a human answer.

    Args:
        split: `train` or `test`; no prompt is in both.

    Returns:
        A dataset with the columns `prompt` and `completion`.
    """
    return Dataset.from_list(make_rows(2000, seed=0)[SPLITS[split]])


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Make rows with distinct attributes, with the keys `prompt` and `completion`.

    Args:
        count: number of rows, at most 100,000, the number of combinations.
        seed: random seed.
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
    """Return the four right answers to a prompt."""
    words = set(prompt.removesuffix(END_OF_PROMPT).split())
    found = {name: next(iter(words.intersection(choices))) for name, choices in ATTRIBUTES.items()}
    return [pattern.format(**found) for pattern in PATTERNS]


def score(prompt: str, real: str, generated: str) -> float:
    """Return 1 if the generated answer is one of the four renderings, else 0; the human's choice does not matter."""
    return float(generated in renderings(prompt))
