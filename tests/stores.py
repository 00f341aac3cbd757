"""The manifest of the stores of generations that tests write."""

from spin_trl.generation.store import Manifest

MANIFEST = Manifest(
    dataset="d0", template="t0", model="m0", engine="transformers", iteration=2,
    sampling={"temperature": 1.0}, num_rows=3, num_shards=2,
)  # fmt: skip
