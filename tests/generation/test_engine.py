"""Sampling settings and seeds are the parts of a run's identity that all engines share."""

import contextlib
import dataclasses

import pytest

import tiny
from messages import refused
from spin_trl import SPINConfig
from spin_trl.errors import RecipeError
from spin_trl.generation.engine import Sampling, check_engine, engine_names, engine_of, micro_batch_seed
from spin_trl.generation.engines.transformers import TransformersEngine


def sampling(**values):
    defaults = Sampling(1.0, 1.0, 0, max_new_tokens=None, max_length=None, num_generations=1, batch_size=4, seed=0)
    return dataclasses.replace(defaults, **values)


@pytest.mark.parametrize(
    ("max_new_tokens", "max_length", "prompt", "limit"),
    [
        (16, None, 100, 16),
        (None, 64, 60, 4),
        (16, 64, 60, 4),
        (16, 64, 10, 16),
        (None, 64, 64, 1),
        (None, None, 5, 1024),
    ],
)
def test_a_response_may_fill_what_the_prompt_leaves(max_new_tokens, max_length, prompt, limit):
    assert sampling(max_new_tokens=max_new_tokens, max_length=max_length).limit(prompt) == limit


def test_settings_come_from_the_iteration(tmp_path):
    args = SPINConfig(
        str(tmp_path), bf16=False, temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=7, max_length=99, seed=3,
        num_generations=2, generation_batch_size=8,
    )  # fmt: skip
    assert Sampling.from_args(args) == Sampling(0.7, 0.9, 5, 7, 99, 2, 8, 3)


def test_every_micro_batch_of_every_iteration_and_seed_has_a_seed_of_its_own():
    seeds = {micro_batch_seed(s, t, m) for s in range(3) for t in range(5) for m in range(200)}
    assert len(seeds) == 3 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    # The first bytes of sha256("0/0/0"), not Python's `hash`, which differs between processes.
    assert micro_batch_seed(0, 0, 0) == 23843214755662904


def test_an_engine_is_found_by_its_name_and_is_what_its_module_says() -> None:
    assert "transformers" in engine_names()
    assert engine_of("transformers") is TransformersEngine
    assert engine_of("auto") is TransformersEngine  # a trainer alone has the model in memory
    made = engine_of("transformers")(tiny.model("llama"), [1], 0, contextlib.nullcontext)
    assert (made.name, made.repeats) == ("transformers", True)


def test_an_unknown_engine_is_answered_with_those_that_there_are() -> None:
    with refused(RecipeError, "`engine`", "'transformer'", "'transformers'"):
        check_engine("transformer")
    with refused(RecipeError, "`engine`", "'sglang'"):
        engine_of("sglang")
