import random
from itertools import product

NAMES = ["Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hugo", "Ida", "Jack"]
VERBS = ["bought", "found", "hid", "kept", "left", "lost", "made", "moved", "sold", "won"]
COLOURS = ["black", "blue", "brown", "green", "grey", "pink", "red", "teal", "white", "yellow"]
THINGS = ["bag", "bell", "bike", "book", "cup", "drum", "hat", "kite", "lamp", "ring"]
PLACES = ["attic", "barn", "cave", "den", "forest", "garden", "hall", "mill", "park", "tower"]
PATTERNS = [
    "{n} {v} a {c} {t} in the {p}.",
    "In the {p} {n} {v} a {c} {t}.",
    "A {t}, {c}: {n} {v} it in the {p}.",
    "{n} in the {p}: {v} a {t}, {c}.",
]
WORDS = [NAMES, VERBS, COLOURS, THINGS, PLACES]


def renderings(prompt):
    ws = prompt.rstrip(">").split()
    d = {k: next(w for w in ws if w in L) for k, L in zip("nvctp", WORDS)}
    return [p.format(**d) for p in PATTERNS]


def make_rows(n, seed):
    rng = random.Random(seed)
    rows, seen = [], set()
    while len(rows) < n:
        ws = [rng.choice(L) for L in WORDS]
        if tuple(ws) in seen:
            continue
        seen.add(tuple(ws))
        rng.shuffle(ws)
        prompt = " ".join(ws) + ">"
        rows.append({"prompt": prompt, "completion": rng.choice(renderings(prompt))})
    return rows


def score(prompt, real, generated):
    return float(generated in renderings(prompt))


def load(split):
    from datasets import Dataset

    rows = make_rows(2000, 0)
    return Dataset.from_list(rows[:1000] if split == "train" else rows[1000:])
