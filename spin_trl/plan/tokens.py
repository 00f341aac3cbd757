"""Lengths of prompts and responses: counted on the dataset if it is available locally, otherwise assumed."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unittest import mock

import datasets
import huggingface_hub.constants
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..config.loop import SMOKE_ROWS
from ..config.recipe import Recipe
from ..counts import agreeing
from ..data.bad_rows import SKIP, BadRows
from ..data.columns import is_text
from ..data.prepare import prepare
from ..data.reading.local import is_local
from ..data.template.pair_template import PairTemplate
from ..errors import DataError, RecipeError
from ..generation.engine import Sampling
from ..models.eos import load_eos_ids
from ..models.policy import load_tokenizer
from ..run.trust import named_code, run_of_recipe
from ..training.scratch import build_tokenizer, texts_of
from .pairs import PreferenceLengths, preference_lengths

SAMPLE = 1000
"""Approximate number of rows whose tokens are counted."""

ASSUMED_ROWS = 10_000
"""Rows assumed for an unknown dataset."""

ASSUMED_LENGTH = 1024
"""Tokens assumed for a prompt and its response if `max_length` is not set."""

DRAWS = 1000
"""Number of micro-batches that are drawn; the largest is planned for."""


@dataclass(frozen=True)
class PairLengths:
    """Token counts of a pair: of its prompt and of its responses (real, generated, and T-SPIN's proto response)."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def unique(self) -> int:
        """Number of tokens processed if responses share the prompt."""
        return self.prompt + sum(self.responses)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return self.prompt + max(self.responses)


@dataclass(frozen=True)
class Lengths:
    """Token counts of a sample of prompts and real responses, and the numbers of rows.

    Attributes:
        rows: token counts (prompt, real response) of every row of the sample.
        num_rows: number of training rows.
        num_held_out: number of held-out rows.
        sampling: limits of generated responses.
        described: source of the counts in words, for display.
        tokenizer: tokenizer used for counting, if any.
        is_counted: whether the rows were counted, so that the longest of them is the longest possible.
        num_tested, num_retained: numbers of rows of the test set and of the retention set.
        preferences: lengths of the preference pairs for DPO on top, if they are available locally.
    """

    rows: Sequence[tuple[int, int]]
    num_rows: int
    num_held_out: int
    sampling: Sampling
    described: str
    tokenizer: PreTrainedTokenizerBase | None = None
    is_counted: bool = True
    num_tested: int = 0
    num_retained: int = 0
    preferences: PreferenceLengths | None = None

    def pair(self, row: tuple[int, int], branches: int = 2, *, longest: bool = False) -> PairLengths:
        """Return a row's pair. Generated responses are as long as the real one or, with `longest`, of maximum length."""
        prompt, real = row
        limit = self.sampling.limit(prompt)
        max_length = self.sampling.max_length
        if longest and not self.is_counted:
            real = (max_length or ASSUMED_LENGTH) - prompt
        real = real if max_length is None else max(min(real, max_length - prompt), 1)
        generated = limit if longest else min(real, limit)
        return PairLengths(prompt, (real, *[generated] * (branches - 1)))

    def micro_batch(self, size: int, branches: int = 2, *, longest: bool = False) -> list[PairLengths]:
        """Return the largest of many micro-batches drawn from the sample, or one of the longest possible pairs.

        Args:
            size: number of pairs.
            branches: number of responses per pair.
            longest: whether every pair is the longest row, with generated responses of maximum length.
        """
        if longest or not self.is_counted:
            row = max(self.rows, key=lambda one: self.pair(one, branches, longest=True).unique)
            return [self.pair(row, branches, longest=True)] * size
        rng = random.Random(0)
        drawn = ([self.pair(rng.choice(self.rows), branches) for _ in range(size)] for _ in range(DRAWS))
        return max(drawn, key=lambda pairs: sum(pair.unique for pair in pairs))

    @property
    def longest_prompt(self) -> int:
        if not self.is_counted and self.sampling.max_length is not None:
            return max(self.sampling.max_length - self.sampling.limit(0), self.rows[0][0])
        return max(prompt for prompt, _ in self.rows)

    @property
    def longest_answer(self) -> int:
        """Maximum number of tokens of a prompt with its generated response."""
        prompts = {self.longest_prompt, *(prompt for prompt, _ in self.rows)}
        return max(prompt + self.sampling.limit(prompt) for prompt in prompts)

    @functools.cached_property
    def prompt(self) -> float:
        """Mean tokens per prompt."""
        return sum(prompt for prompt, _ in self.rows) / len(self.rows)

    @functools.cached_property
    def real(self) -> float:
        """Mean tokens per real response."""
        return sum(self.pair(row).responses[0] for row in self.rows) / len(self.rows)

    @functools.cached_property
    def generated(self) -> float:
        """Mean tokens per generated response: as many as in the real one, up to the limit."""
        return sum(self.pair(row).responses[1] for row in self.rows) / len(self.rows)

    def longest_of(self, size: int) -> float:
        """Return the mean tokens of the longest of `size` generated responses."""
        rng = random.Random(0)
        found = sum(max(self.pair(rng.choice(self.rows)).responses[1] for _ in range(size)) for _ in range(50)) / 50
        if not self.is_counted:  # one length is known; the longest of many is about twice the mean
            found = min(2 * found, self.sampling.limit(round(self.prompt)))
        return max(found, 1.0)

    def cut_to(self, max_length: int | None) -> Lengths:
        """Return the same lengths with another `max_length`, without rows whose prompts do not fit."""
        fitting = [row for row in self.rows if max_length is None or row[0] < max_length]
        sampling = dataclasses.replace(self.sampling, max_length=max_length)
        return dataclasses.replace(self, sampling=sampling, rows=fitting or self.rows[:1])

    def with_means(self, prompt: int | None, response: int | None) -> Lengths:
        """Return the lengths with means given by the user, if any."""
        if prompt is None and response is None:
            return self
        row = (prompt or round(self.prompt), response or round(self.real))
        return dataclasses.replace(self, rows=[row], described="means as given on the command line", is_counted=False)


def read_lengths(recipe: Recipe, *, num_rows: int | None = None) -> Lengths:
    """Count tokens on a recipe's own data if the data and a tokenizer are available locally; otherwise assume lengths.

    Args:
        recipe: recipe, after `Recipe.load_as_set`.
        num_rows: rows of the dataset, if they can't be counted.

    Raises:
        DataError: if the data is available, but its first rows can't be used.
    """
    sampling = Sampling.from_args(recipe.args)
    names = ("dataset_name", "held_out_name", "test_name", "retain_name", "dpo_name")
    functions = named_code({name: getattr(recipe.data, name) for name in names})
    if functions and run_of_recipe(recipe.file) is not None:
        why = f"{', '.join(functions.values())} is a function, and planning a run directory does not run its code"
        return _assumed(recipe, sampling, num_rows or recipe.data.max_rows, why)
    try:
        # `datasets` uses its cache only, and downloads nothing.
        with (
            mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True),
            mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        ):
            dataset = recipe.data.train_as_stored(bad_as_rows=recipe.args.bad_rows == SKIP)
            held_out = recipe.data.held_out_as_stored(bad_as_rows=recipe.args.bad_rows == SKIP)
            others = recipe.data.measured_as_stored(bad_as_rows=recipe.args.bad_rows == SKIP)
            pairs = recipe.data.pairs() if recipe.play.then_dpo else None
    except (DataError, RecipeError):
        if recipe.data.dataset_name is None or is_local(recipe.data.dataset_name):
            raise
        why = f"the dataset {recipe.data.dataset_name!r} is not available locally"
        return _assumed(recipe, sampling, num_rows or recipe.data.max_rows, why)
    total = len(dataset)
    sample = recipe.data.as_set(dataset.select(range(0, total, max(total // SAMPLE, 1))))
    tokenizer = _tokenizer(recipe, sample)
    if tokenizer is None:
        name = recipe.model.model_name_or_path
        return _assumed(recipe, sampling, num_rows or total, f"the tokenizer of {name!r} is not available locally")
    template = PairTemplate(
        tokenizer, load_eos_ids(recipe.model.model_name_or_path, recipe.args, tokenizer), recipe.args.template_kwargs
    )
    rows = prepare(
        sample,
        template,
        max_length=recipe.args.max_length,
        turn=recipe.args.train_on_turn,
        bad_rows=BadRows(recipe.args.bad_rows, recipe.args.bad_rows_max),
    )
    counted = [(len(row["prompt_ids"]), len(row["real_ids"])) for row in rows]
    total = num_rows or round(total * len(rows) / len(sample))
    kept, out = _split(recipe, total, None if held_out is None else len(held_out))
    of = f"of {len(dataset):,} {agreeing(len(dataset), 'row')} of {recipe.data.dataset_name}"
    described = f"counted on {len(sample):,} {of}"
    measured = _num_measured(recipe, {kind: len(dataset) for kind, dataset in others.items()})
    preferences = None if pairs is None else preference_lengths(recipe, pairs, template)
    return Lengths(counted, kept, out, sampling, described, tokenizer, True, *measured, preferences)


def _assumed(recipe: Recipe, sampling: Sampling, num_rows: int | None, why: str) -> Lengths:
    """Assume prompts and real responses of a quarter of `max_length` each; the longest row is the longest possible."""
    length = recipe.args.max_length or ASSUMED_LENGTH
    prompt = max(length // 4, 1)
    kept, out = _split(recipe, num_rows or ASSUMED_ROWS, None)
    rows = "" if num_rows else f"{ASSUMED_ROWS:,} rows (set with `--rows`), "
    described = f"assumed, because {why}: {rows}prompts and real responses of {prompt} {agreeing(prompt, 'token')}"
    measured = _num_measured(recipe, {})
    return Lengths(
        [(prompt, prompt)], kept, out, sampling, described, None, False, *measured, _assumed_pairs(recipe, prompt)
    )


def _assumed_pairs(recipe: Recipe, length: int) -> PreferenceLengths | None:
    """Assume that the prompt and each response of a preference pair have this many tokens; None without DPO on top."""
    if not recipe.play.then_dpo:
        return None
    count = ASSUMED_ROWS
    if is_local(recipe.data.dpo_name or "") and not named_code({"dpo_name": recipe.data.dpo_name}):
        count = len(recipe.data.pairs() or ())
    pairs = min(count, recipe.play.most_pairs or count)
    return PreferenceLengths(pairs, 3.0 * length, float(length), longest=(length, length, length))


def _split(recipe: Recipe, total: int, held_out: int | None) -> tuple[int, int]:
    """Return the numbers of training and held-out rows."""
    play = recipe.play
    if play.smoke:
        total = min(total, SMOKE_ROWS)
    if recipe.data.held_out_name is not None:
        return total, min(held_out if held_out is not None else play.held_out_max, play.held_out_max)
    out = min(max(round(play.held_out_fraction * total), 1), play.held_out_max) if play.held_out_fraction else 0
    return max(total - out, 1), out


def _num_measured(recipe: Recipe, counts: Mapping[str, int]) -> tuple[int, int]:
    """Return the numbers of rows of the test set and of the retention set; a set that can't be counted is as large as the
    largest held-out set.

    Args:
        recipe: the recipe.
        counts: numbers of rows of the sets that are available locally, by their settings' prefixes.
    """
    play, data = recipe.play, recipe.data
    tested = 0 if data.test_name is None else counts.get("test", play.held_out_max)
    retained = 0 if data.retain_name is None else min(counts.get("retain", play.retain_max), play.retain_max)
    return (min(tested, SMOKE_ROWS), min(retained, SMOKE_ROWS)) if play.smoke else (tested, retained)


def _tokenizer(recipe: Recipe, sample: Dataset) -> PreTrainedTokenizerBase | None:
    if recipe.model.model_name_or_path is None:
        chats = not is_text(sample)
        return build_tokenizer(texts_of(sample), recipe.start, recipe.args.max_length or 2048, chats=chats)
    try:
        return load_tokenizer(recipe.model.model_name_or_path, recipe.args)
    except DataError:
        return None
