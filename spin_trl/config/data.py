"""Settings for the data that a run learns from and is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import yaml
from datasets import Dataset

from ..data.load import as_conversations, load_rows
from ..data.preferences import pairs_as_conversations
from ..errors import RecipeError
from ..objectives.fields import setting
from .checks import Bounds, as_mapping, check_fields, shown
from .credentials import yaml_problem
from .yaml_text import parse_yaml


@dataclass
class DataConfig:
    """Settings for the data that a run learns from and is evaluated on.

    Args:
        dataset_name: Dataset to learn from: a JSONL, JSON, Parquet, CSV or TSV file, a folder of such files, a
            `save_to_disk` folder, the name of a dataset on the Hub, or `module:function`.
        dataset_config: Configuration of a Hub dataset; or second argument of a function, after the split, such as the folder
            of its files.
        dataset_revision: Commit of a Hub dataset.
        dataset_train_split: Split to train on.
        held_out_name: Dataset to evaluate on, given in the same way as `dataset_name`. By default, some prompts of
            `dataset_name` are held out.
        held_out_config: Configuration of `held_out_name`. By default, `dataset_config` if both are the same dataset.
        held_out_split: Split of `held_out_name`, if it has several.
        test_name: Dataset to test the final models on, given in the same way as `dataset_name`. It is never trained on and
            never used to choose a model or to stop; the start, the best iteration, each baseline's best and the results of
            `then_dpo` are measured on it once, at the end of the run.
        test_config: Configuration of `test_name`. By default, `dataset_config` if both are the same dataset.
        test_split: Split of `test_name`, if it has several.
        retain_name: Dataset of other tasks, given in the same way as `dataset_name`, to measure what a model forgets. It is
            never trained on; every model's likelihood of its responses is compared with the start's.
        retain_config: Configuration of `retain_name`. By default, `dataset_config` if both are the same dataset.
        retain_split: Split of `retain_name`, if it has several.
        dpo_name: Dataset of preference pairs for `then_dpo`, in any of TRL's preference formats: `chosen` and `rejected`,
            with or without `prompt`, as text or messages.
        dpo_config: Configuration of `dpo_name`. By default, `dataset_config` if both are the same dataset.
        dpo_split: Split of `dpo_name`, if it has several.
        column_mapping: Columns to rename, like '{"question": "prompt", "answer": "completion"}'.
        as_conversations: Turn prompts and completions that are plain text into a user and an assistant message, so that
            the chat template is applied to them. For chat models.
        max_rows: Number of rows to use: the first ones. By default, all rows are used.
        max_rows_seed: Random seed for drawing `max_rows` rows, instead of taking the first ones. With the same seed, a
            larger draw includes every smaller one.

    Example:

    ```python
    data = DataConfig(dataset_name="rows.jsonl", column_mapping={"question": "prompt", "answer": "completion"})
    ```
    """

    dataset_name: str | None = setting(
        None,
        "Dataset to learn from: a JSONL, JSON, Parquet, CSV or TSV file, a folder of such files, a `save_to_disk` "
        "folder, the name of a dataset on the Hub, or `module:function`.",
    )
    dataset_config: str | None = setting(
        None,
        "Configuration of a Hub dataset; or second argument of a function, after the split, such as the folder of its "
        "files.",
    )
    dataset_revision: str | None = setting(None, "Commit of a Hub dataset.")
    dataset_train_split: str = setting("train", "Split to train on.")
    held_out_name: str | None = setting(
        None,
        "Dataset to evaluate on, given in the same way as `dataset_name`. By default, some prompts of "
        "`dataset_name` are held out.",
    )
    held_out_config: str | None = setting(
        None, "Configuration of `held_out_name`. By default, `dataset_config` if both are the same dataset."
    )
    held_out_split: str = setting("test", "Split of `held_out_name`, if it has several.")
    test_name: str | None = setting(
        None,
        "Dataset to test the final models on, given in the same way as `dataset_name`. It is never trained on and never "
        "used to choose a model or to stop; the start, the best iteration, each baseline's best and the results of "
        "`then_dpo` are measured on it once, at the end of the run.",
    )
    test_config: str | None = setting(
        None, "Configuration of `test_name`. By default, `dataset_config` if both are the same dataset."
    )
    test_split: str = setting("test", "Split of `test_name`, if it has several.")
    retain_name: str | None = setting(
        None,
        "Dataset of other tasks, given in the same way as `dataset_name`, to measure what a model forgets. It is never "
        "trained on; every model's likelihood of its responses is compared with the start's.",
    )
    retain_config: str | None = setting(
        None, "Configuration of `retain_name`. By default, `dataset_config` if both are the same dataset."
    )
    retain_split: str = setting("test", "Split of `retain_name`, if it has several.")
    dpo_name: str | None = setting(
        None,
        "Dataset of preference pairs for `then_dpo`, in any of TRL's preference formats: `chosen` and `rejected`, with or "
        "without `prompt`, as text or messages.",
    )
    dpo_config: str | None = setting(
        None, "Configuration of `dpo_name`. By default, `dataset_config` if both are the same dataset."
    )
    dpo_split: str = setting("train", "Split of `dpo_name`, if it has several.")
    column_mapping: dict[str, Any] | str | None = setting(
        None, 'Columns to rename, like \'{"question": "prompt", "answer": "completion"}\'.'
    )
    as_conversations: bool = setting(
        False,
        "Turn prompts and completions that are plain text into a user and an assistant message, so that the chat "
        "template is applied to them. For chat models.",
    )
    max_rows: Annotated[int | None, Bounds(1)] = setting(
        None, "Number of rows to use: the first ones. By default, all rows are used."
    )
    max_rows_seed: Annotated[int | None, Bounds(0)] = setting(
        None,
        "Random seed for drawing `max_rows` rows, instead of taking the first ones. With the same seed, a larger "
        "draw includes every smaller one.",
    )

    def __post_init__(self) -> None:
        for name in ("held_out_name", "test_name", "retain_name", "dpo_name"):
            setattr(self, name, getattr(self, name) or None)  # `--held_out_name ""` removes the recipe's value
        if isinstance(self.column_mapping, str):
            try:
                self.column_mapping = parse_yaml(self.column_mapping)
            except yaml.YAMLError as error:
                raise RecipeError(f"`column_mapping` is not a mapping: {yaml_problem(error)}") from None
        self.column_mapping = as_mapping("column_mapping", self.column_mapping)
        for column, name in (self.column_mapping or {}).items():
            if not isinstance(column, str) or not isinstance(name, str):
                wrong = f"{shown(column)}: {shown(name)}"
                raise RecipeError(f"`column_mapping` has {wrong}; expected column names as text.")
        check_fields(self)
        if self.max_rows is None and self.max_rows_seed is not None:
            raise RecipeError(
                "`max_rows_seed` needs `max_rows`, the number of rows to draw at random, which is not set."
            )

    def _load(self, name: str, config: str | None, split: str, revision: str | None, bad_as_rows: bool) -> Dataset:
        mapping = as_mapping("column_mapping", self.column_mapping)
        return load_rows(name, config, split, mapping, revision, bad_as_rows=bad_as_rows)

    def as_set(self, dataset: Dataset) -> Dataset:
        """Turn stored rows into conversations if `as_conversations` is set."""
        return as_conversations(dataset) if self.as_conversations else dataset

    def train(self, *, bad_as_rows: bool = False) -> Dataset:
        """Load the training data.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        return self.as_set(self.train_as_stored(bad_as_rows=bad_as_rows))

    def train_as_stored(self, *, bad_as_rows: bool = False) -> Dataset:
        """Load the training data without turning text into conversations, which would write all rows again.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        if self.dataset_name is None:
            raise RecipeError(
                "`dataset_name` is missing: name a file, a folder, or a Hub dataset with human responses."
            )
        split, revision = self.dataset_train_split, self.dataset_revision
        dataset = self._load(self.dataset_name, self.dataset_config, split, revision, bad_as_rows)
        if self.max_rows is not None:
            order = np.arange(len(dataset))
            if self.max_rows_seed is not None:
                order = np.random.default_rng(self.max_rows_seed).permutation(order)
            dataset = dataset.select(order[: self.max_rows])
        return dataset

    def held_out(self, *, bad_as_rows: bool = False) -> Dataset | None:
        """Load the evaluation data, or return None if `held_out_name` is not set.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        return self._other("held_out", bad_as_rows)

    def test(self, *, bad_as_rows: bool = False) -> Dataset | None:
        """Load the test data, or return None if `test_name` is not set.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        return self._other("test", bad_as_rows)

    def retain(self, *, bad_as_rows: bool = False) -> Dataset | None:
        """Load the retention data, or return None if `retain_name` is not set.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        return self._other("retain", bad_as_rows)

    def pairs(self) -> Dataset | None:
        """Load the preference pairs for DPO on top, or return None if `dpo_name` is not set."""
        found = self._other_as_stored("dpo", bad_as_rows=False)
        return pairs_as_conversations(found) if found is not None and self.as_conversations else found

    def held_out_as_stored(self, *, bad_as_rows: bool = False) -> Dataset | None:
        """Load the evaluation data, if any, without turning text into conversations.

        Args:
            bad_as_rows: as in [`load_rows`].
        """
        return self._other_as_stored("held_out", bad_as_rows)

    def measured_as_stored(self, *, bad_as_rows: bool = False) -> dict[str, Dataset]:
        """Load the test data and the retention data, as far as they are named, without turning text into conversations.

        Args:
            bad_as_rows: as in [`load_rows`].

        Returns:
            The datasets by the prefixes of their settings: `test`, `retain`.
        """
        found = {kind: self._other_as_stored(kind, bad_as_rows) for kind in ("test", "retain")}
        return {kind: dataset for kind, dataset in found.items() if dataset is not None}

    def _other(self, kind: str, bad_as_rows: bool) -> Dataset | None:
        dataset = self._other_as_stored(kind, bad_as_rows)
        return None if dataset is None else self.as_set(dataset)

    def _other_as_stored(self, kind: str, bad_as_rows: bool) -> Dataset | None:
        """Load the dataset that the settings `KIND_name`, `KIND_config` and `KIND_split` name, or return None."""
        name, config, split = (getattr(self, f"{kind}_{part}") for part in ("name", "config", "split"))
        if name is None:
            return None
        is_same = name == self.dataset_name
        revision = self.dataset_revision if is_same else None
        return self._load(name, config or (self.dataset_config if is_same else None), split, revision, bad_as_rows)
