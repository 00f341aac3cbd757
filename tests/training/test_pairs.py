"""Pairs are rows: every generation of a row is a pair; degenerate pairs are counted, and dropped if configured."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from messages import logged, names, refused
from spin_trl.config.iteration import SPINConfig
from spin_trl.data.caches import note
from spin_trl.data.columns import PREPARED_COLUMNS
from spin_trl.errors import GenerationsError
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import SCHEMA
from spin_trl.training.pairs import PairCounts, on_disk, pair

EOS, OTHER_EOS = 2, 0


def rows(n: int = 4) -> Dataset:
    """Return prepared rows "a", "b", ...: prompt [10 + i], real response [20 + i, 30 + i, EOS]."""
    made = [
        {
            "key": chr(ord("a") + i),
            "prompt_hash": str(i),
            "prompt_ids": [10 + i],
            "real_ids": [20 + i, 30 + i, EOS],
            "prompt": "",
            "real": "",
        }
        for i in range(n)
    ]
    return Dataset.from_list(made)


def table(*responses: tuple[str, int, list[int], str]) -> pa.Table:
    """Return stored responses from (key, sample, ids, finish reason)."""
    columns = zip(*responses, strict=True)
    keys, samples, ids, reasons = (list(column) for column in columns)
    lengths = [len(tokens) for tokens in ids]
    return pa.table(dict(zip(SCHEMA.names, (keys, samples, ids, reasons, lengths), strict=True)), schema=SCHEMA)


def generations(*responses: tuple[str, int, list[int], str], iteration: int = 0) -> Generations:
    return Generations({iteration: table(*responses)})


def config(tmp_path: Path, **settings: Any) -> SPINConfig:
    return SPINConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", **settings)


FOUR = (
    ("a", 0, [40, EOS], "eos"),  # an ordinary one
    ("b", 0, [EOS], "eos"),  # empty
    ("c", 0, [41, 42], "length"),  # truncated
    ("d", 0, [23, 33, EOS], "eos"),  # equal to the real one
)


def named(pairs: Dataset) -> list[tuple[str, int, int]]:
    return list(zip(pairs["key"], pairs["iteration"], pairs["sample"], strict=True))


def test_degenerate_answers_are_counted_and_kept(tmp_path: Path) -> None:
    """By default every answer is a pair. Unique tokens are 1 + 3 + 2, 1 + 3 + 1, 1 + 3 + 2, and 1 + 3 for the equal one."""
    pairs, counts = pair(rows(), generations(*FOUR), config(tmp_path))
    assert counts == PairCounts(total=4, empty=1, truncated=1, identical=1, dropped=0, tokens=21)
    found = {"total": 4, "empty": 1, "truncated": 1, "identical": 1, "dropped": 0, "tokens": 21}
    assert dataclasses.asdict(counts) == found
    assert named(pairs) == [("a", 0, 0), ("b", 0, 0), ("c", 0, 0), ("d", 0, 0)]
    assert pairs["real_ids"][:] == rows()["real_ids"][:]
    assert pairs["prompt_ids"][:] == rows()["prompt_ids"][:]


@pytest.mark.parametrize(
    ("kind", "key", "tokens"), [("empty", "b", 16), ("truncated", "c", 15), ("identical", "d", 17)]
)
def test_each_kind_can_be_dropped(kind: str, key: str, tokens: int, tmp_path: Path) -> None:
    """It is still counted."""
    pairs, counts = pair(rows(), generations(*FOUR), config(tmp_path, **{f"{kind}_generations": "drop"}))
    assert counts == PairCounts(total=4, empty=1, truncated=1, identical=1, dropped=1, tokens=tokens)
    assert named(pairs) == [(name, 0, 0) for name in "abcd" if name != key]


def test_several_kinds_are_dropped_together(tmp_path: Path) -> None:
    """A pair with two defects is dropped once."""
    settings = {"empty_generations": "drop", "truncated_generations": "drop", "identical_generations": "drop"}
    both = (*FOUR[:2], ("c", 0, [], "length"), FOUR[3])
    pairs, counts = pair(rows(), generations(*both), config(tmp_path, **settings))
    assert counts == PairCounts(total=4, empty=2, truncated=1, identical=1, dropped=3, tokens=6)
    assert named(pairs) == [("a", 0, 0)]


@pytest.mark.parametrize("ids", [[EOS], [OTHER_EOS], []], ids=["its EOS", "another EOS", "nothing"])
def test_an_answer_without_a_token_before_its_end_is_empty(ids: list[int], tmp_path: Path) -> None:
    """It does not matter which EOS id ended it."""
    _, counts = pair(rows(1), generations(("a", 0, ids, "eos")), config(tmp_path))
    assert counts.empty == 1


def test_one_token_that_was_cut_is_not_empty(tmp_path: Path) -> None:
    """It is truncated."""
    _, counts = pair(rows(1), generations(("a", 0, [40], "length")), config(tmp_path))
    assert (counts.empty, counts.truncated) == (0, 1)


def test_a_real_answer_cut_before_its_end_is_not_identical(tmp_path: Path) -> None:
    """EOS is part of the answer."""
    _, counts = pair(rows(1), generations(("a", 0, [20, 30], "length")), config(tmp_path))
    assert counts.identical == 0


def test_every_sample_and_iteration_is_a_pair_of_its_own(tmp_path: Path) -> None:
    """Several generations per prompt, and history, are more rows; each is seen once an epoch."""
    both = Generations(
        {
            3: table(*((key, sample, [50 + sample, EOS], "eos") for key in "ba" for sample in (1, 0))),
            2: table(*((key, 0, [60, EOS], "eos") for key in "ab")),
        }
    )
    pairs, counts = pair(rows(2), both, config(tmp_path))
    assert named(pairs) == [(key, iteration, sample) for key in "ab" for iteration, sample in ((2, 0), (3, 0), (3, 1))]
    assert pairs["prompt_ids"][:] == [[10]] * 3 + [[11]] * 3
    assert pairs["real_ids"][:] == [[20, 30, EOS]] * 3 + [[21, 31, EOS]] * 3
    assert counts.total == 6


def test_rows_without_a_generation_are_named(tmp_path: Path) -> None:
    """Such generations were made from other data."""
    with refused(GenerationsError, "Row 2", "key c", "generation"):
        pair(rows(3), generations(*FOUR[:2]), config(tmp_path))


def test_generations_of_other_rows_are_no_pairs(tmp_path: Path) -> None:
    """A store may hold more rows than are trained on."""
    pairs, counts = pair(rows(1), generations(*FOUR), config(tmp_path))
    assert named(pairs) == [("a", 0, 0)]
    assert counts.total == 1


def test_dropping_everything_is_an_error(tmp_path: Path) -> None:
    """The error gives the defects of the answers."""
    with refused(GenerationsError, "0 empty", "0 truncated", "1 identical"):
        pair(rows(1), generations(("a", 0, [20, 30, EOS], "eos")), config(tmp_path, identical_generations="drop"))


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ([20, 30, EOS], ("1 of 1", "real", "0 pairs")),
        ([EOS], ("1 of 1", "empty")),
        ([40], ("1 of 1", "`max_new_tokens`", "`max_length`")),
    ],
    ids=["identical", "empty", "truncated"],
)
def test_mostly_degenerate_answers_are_warned_about(
    response: list[int], parts: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They contribute little to training, or teach only a length."""
    with caplog.at_level(logging.WARNING, "spin_trl.training.pairs"):
        pair(rows(1), generations(("a", 0, response, "eos" if EOS in response else "length")), config(tmp_path))
    assert names(caplog.text, *parts)


def test_ordinary_answers_are_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of them may be degenerate."""
    with caplog.at_level(logging.WARNING, "spin_trl.training.pairs"):
        pair(rows(), generations(*FOUR), config(tmp_path))
    assert caplog.text == ""


# ---- the cache key of the opponent's log-probs ----------------------------------------------------------------------


def fingerprint(tmp_path: Path, made: Generations, data: Dataset | None = None, **options: Any) -> str:
    prefix = options.pop("prefix", "")
    pairs, _ = pair(rows(2) if data is None else data, made, config(tmp_path, **options), prefix)
    return pairs._fingerprint


def test_the_same_pairs_have_the_same_fingerprint(tmp_path: Path) -> None:
    """Results computed for them are found again, also in another process."""
    assert fingerprint(tmp_path, generations(*FOUR[:2])) == fingerprint(tmp_path, generations(*FOUR[:2]))
    assert len(fingerprint(tmp_path, generations(*FOUR[:2]))) == 16


OTHER: Mapping[str, Generations] = {
    "another token": generations(("a", 0, [43, EOS], "eos"), FOUR[1]),
    "another iteration": generations(*FOUR[:2], iteration=1),
    "another sample": generations(("a", 1, [40, EOS], "eos"), FOUR[1]),
    "one more": generations(*FOUR[:2], ("a", 1, [40, EOS], "eos")),
    "swapped": generations(("a", 0, [EOS], "eos"), ("b", 0, [40, EOS], "eos")),
}


@pytest.mark.parametrize("what", OTHER)
def test_other_generations_have_another_fingerprint(what: str, tmp_path: Path) -> None:
    """The opponent's log-probabilities are cached under it, so they are never used for other generations."""
    assert fingerprint(tmp_path, OTHER[what]) != fingerprint(tmp_path, generations(*FOUR[:2]))


@pytest.mark.parametrize("column", ["prompt_ids", "real_ids"])
def test_other_rows_have_another_fingerprint(column: str, tmp_path: Path) -> None:
    """The real responses' log-probabilities are cached, too."""
    changed = rows(2).to_list()
    changed[1][column] = [99, *changed[1][column]]
    usual = fingerprint(tmp_path, generations(*FOUR[:2]))
    assert fingerprint(tmp_path, generations(*FOUR[:2]), Dataset.from_list(changed)) != usual
    assert fingerprint(tmp_path, generations(*FOUR[:2]), rows(2).select([1, 0])) != usual


def test_dropping_changes_the_fingerprint(tmp_path: Path) -> None:
    """Other rows are then at these positions."""
    usual = fingerprint(tmp_path, generations(*FOUR[:2]))
    assert fingerprint(tmp_path, generations(*FOUR[:2]), empty_generations="drop") != usual


def test_a_prefix_keeps_two_datasets_of_one_trainer_apart(tmp_path: Path) -> None:
    """Their rows may share a key."""
    pairs, _ = pair(rows(2), generations(*FOUR[:2]), config(tmp_path), "eval/")
    assert pairs["key"][:] == ["eval/a", "eval/b"]
    assert pairs._fingerprint != fingerprint(tmp_path, generations(*FOUR[:2]))


def test_pairs_on_disk_are_the_same_pairs(tmp_path: Path) -> None:
    """They have the same fingerprint and are written once; a half-written folder of an interrupted call is replaced."""
    pairs, _ = pair(rows(), generations(*FOUR), config(tmp_path))
    place = tmp_path / "pairs" / pairs._fingerprint
    (tmp_path / "pairs" / f".{pairs._fingerprint}.tmp").mkdir(parents=True)
    kept = on_disk(pairs, tmp_path / "pairs")
    assert kept.to_list() == pairs.to_list()
    assert kept._fingerprint == pairs._fingerprint
    before = (place / "state.json").stat().st_mtime_ns
    assert on_disk(pairs, tmp_path / "pairs").to_list() == pairs.to_list()
    assert (place / "state.json").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == [pairs._fingerprint]


def test_damaged_pairs_are_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are rebuilt even if they can be read; a cache next to them with a wrong or missing checksum is deleted."""
    pairs, _ = pair(rows(), generations(*FOUR), config(tmp_path))
    place = tmp_path / "pairs" / pairs._fingerprint
    on_disk(pairs, tmp_path / "pairs")
    file = next(place.glob("data-*.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert on_disk(pairs, tmp_path / "pairs").to_list() == pairs.to_list()
    logged(caplog, str(place))
    whole, cut = place / "cache-1.arrow", place / "cache-2.arrow"
    for cache in (whole, cut):
        cache.write_bytes(b"logps")
        note(cache)
    cut.write_bytes(b"log")
    (place / "cache-3.arrow").write_bytes(b"nobody has noted it")
    on_disk(pairs, tmp_path / "pairs")
    assert list(place.glob("cache-*.arrow")) == [whole]


def test_rows_here_are_prepared_rows() -> None:
    """These tests use the output of `prepare`."""
    assert set(rows().column_names) >= set(PREPARED_COLUMNS)
