"""Generations are read by key, iteration and sample, and what can't be trained on is refused."""

import dataclasses

import pytest
from datasets import Dataset

from messages import refused
from spin_trl.errors import GenerationsError
from spin_trl.generation.engine import Response
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from stores import MANIFEST


def test_the_digest_is_of_the_content(store):
    digest = Generations.load({2: store}).digest
    assert Generations.load({2: store}).digest == digest
    assert Generations.load({3: store}).digest != digest
    store.write_shard(1, [("c", 0, Response([8], "eos"))])
    assert Generations.load({2: store}).digest != digest


def test_several_iterations_and_samples_are_kept_apart(tmp_path):
    stores = {}
    for iteration in (0, 1):
        stores[iteration] = GenerationStore(tmp_path / str(iteration))
        stores[iteration].open(dataclasses.replace(MANIFEST, iteration=iteration, num_shards=1))
        rows = [("a", sample, Response([10 * iteration + sample], "eos")) for sample in range(3)]
        stores[iteration].write_shard(0, rows)
    generations = Generations.load(stores)
    assert dict(generations) == {
        ("a", iteration, sample): [10 * iteration + sample] for iteration in (0, 1) for sample in range(3)
    }


def test_two_datasets_may_share_a_prompt():
    """Evaluation data that repeats a training prompt has its own generations."""
    train = Generations.from_dataset(Dataset.from_dict({"key": ["a"], "ids": [[1]]}))
    test = Generations.from_dataset(Dataset.from_dict({"key": ["a"], "ids": [[2]]}))
    both = train.merged(test, "eval/")
    assert dict(both) == {("a", 0, 0): [1], ("eval/a", 0, 0): [2]}
    assert dict(train) == {("a", 0, 0): [1]}
    assert len({both.digest, train.digest, test.digest}) == 3


def test_a_dataset_without_keys_is_refused_and_says_where_text_goes():
    with refused(GenerationsError, "`generations`", "['ids']", "`key`", "`real`", "`generated`"):
        Generations.from_dataset(Dataset.from_dict({"ids": [[1]]}))


def test_a_dataset_of_generations_may_number_its_samples_and_say_how_they_ended():
    columns = {
        "key": ["a", "a"],
        "ids": [[1, 2], [3]],
        "sample": [0, 1],
        "finish_reason": ["eos", "length"],
        "text": ["", ""],
    }
    found = Generations.from_dataset(Dataset.from_dict(columns), iteration=3)
    assert dict(found) == {("a", 3, 0): [1, 2], ("a", 3, 1): [3]}
    assert found.finish_reasons == {("a", 3, 0): "eos", ("a", 3, 1): "length"}


def test_two_generations_of_one_name_are_refused():
    """Otherwise it would be unclear which one was trained on."""
    twice = Dataset.from_dict({"key": ["a", "b", "a"], "ids": [[1], [2], [3]]})
    with refused(GenerationsError, "row a", "iteration 0", "sample 0", "`sample`"):
        Generations.from_dataset(twice)


@pytest.mark.parametrize("ids", [[[5, -1]], [None], [[5, None]]])
def test_what_is_no_token_id_is_refused(ids):
    with refused(GenerationsError, "iteration 3"):
        Generations.from_dataset(Dataset.from_dict({"key": ["a"], "ids": ids}), iteration=3)


def test_tokens_that_a_model_does_not_know_are_refused():
    """On a GPU, its embedding would fail without a reason, and take the process with it."""
    found = Generations.from_dataset(Dataset.from_dict({"key": ["a", "b"], "ids": [[5, 31], []]}))
    found.check_ids(32)
    found.check_ids(None)
    more = found.merged(Generations.from_dataset(Dataset.from_dict({"key": ["c"], "ids": [[40]]})), "eval/")
    for generations, largest, known in ((found, 31, 31), (more, 40, 32)):
        with refused(GenerationsError, f"id {largest}", f"0 to {known - 1}"):
            generations.check_ids(known)


@pytest.mark.parametrize(
    ("wrong", "columns"),
    [
        ("ids", {"key": ["a"], "ids": ["text"]}),
        ("ids", {"key": ["a"], "ids": [["7"]]}),
        ("key", {"key": [1], "ids": [[1]]}),
    ],
)
def test_a_column_of_another_type_is_named(wrong, columns):
    with refused(GenerationsError, "`generations`", repr(wrong)):
        Generations.from_dataset(Dataset.from_dict(columns))
