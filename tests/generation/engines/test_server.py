"""The engine hands a store's work to servers that exist already, and the manifest has what shows their weights."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from completion_server import EOS, CompletionServer, answered, serving
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.engine import Sampling, engine_of, micro_batch_seed
from spin_trl.generation.engines.server import ServerEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore


def test_responses_and_the_comparison_are_stored(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"key": ["a", "b"], "prompt_ids": [[3], [4, 5]]})
    sampling = Sampling(1.0, 1.0, 0, max_new_tokens=4, max_length=None, num_generations=1, batch_size=64, seed=5)
    store, served = GenerationStore(tmp_path / "store"), {"expected": "start", "tokens": 2_000}
    with serving(CompletionServer()) as server:
        engine = ServerEngine(CompletionsClient([server.url], "tiny", [EOS]), "0.31.0", served)
        asked = Asked("d", "t", "m")
        generate(engine, rows, store, sampling, asked, iteration=1, served=engine.served, disable_progress=True)
    found = Generations.load({1: store})
    for row in range(2):
        assert found["ab"[row], 1, 0] == answered(rows[row]["prompt_ids"], micro_batch_seed(5, 1, row), 4)
    manifest = store.manifest()
    assert (manifest["engine"], manifest["repeats"], manifest["served"]) == ("server", False, served)


def test_a_trainer_alone_has_no_servers() -> None:
    with refused(RecipeError, "`engine: server`", "spin-trl run"):
        engine_of("server")
