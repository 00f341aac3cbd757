"""A store of generations."""

from pathlib import Path

import pytest

from spin_trl.generation.engine import Response
from spin_trl.generation.store import GenerationStore
from stores import MANIFEST


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    """Return a store of two shards, both written."""
    store = GenerationStore(tmp_path / "generations")
    store.open(MANIFEST)
    store.write_shard(0, [("a", 0, Response([5, 6, 2], "eos")), ("b", 0, Response([7], "length"))])
    store.write_shard(1, [("c", 0, Response([], "length"))])
    return store
