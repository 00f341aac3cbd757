"""A column type for values of any shape, which are stored as JSON and read back exactly.

`datasets.Json` reads numbers with ujson, which turns 0.6 into 0.6000000000000001, and it parses text that happens to be JSON
("7", "true", "null"). The type in this module preserves both.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Json, LargeList, List
from datasets.features.features import register_feature


@dataclass
class ExactJson(Json):
    """`datasets.Json` whose values are written and read by Python's own json module."""

    _type: str = field(default="ExactJson", init=False, repr=False)

    def encode_example(self, example_data: Any) -> str | None:
        """Return the text to store for a value."""
        return None if example_data is None else json.dumps(example_data)

    def decode_example(self, example_data: str | None, token_per_repo_id: Any = None) -> Any:
        """Return the stored value."""
        return None if example_data is None else json.loads(example_data)

    def cast_storage(self, storage: Any) -> Any:
        """Convert Arrow strings that already hold JSON to Arrow's JSON type."""
        if isinstance(storage, pa.ExtensionArray):
            return storage
        return pa.ExtensionArray.from_storage(self.pa_type, storage.cast(self.pa_type.storage_type))


with warnings.catch_warnings():  # `datasets` warns that registering features is experimental
    warnings.simplefilter("ignore")
    register_feature(ExactJson, "ExactJson")


def read_exactly(dataset: Dataset) -> Dataset:
    """Return the same dataset with every `datasets.Json` feature replaced by [`ExactJson`]. Stored data is not changed."""
    exact = {name: _exact(feature) for name, feature in dataset.features.items()}
    if exact == dict(dataset.features):
        return dataset
    dataset = copy.copy(dataset)
    dataset._info = dataset.info.copy()
    dataset._info.features = Features(exact)
    return dataset


def _exact(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _exact(part) for name, part in feature.items()}
    if isinstance(feature, List):
        return List(_exact(feature.feature), length=feature.length)
    if isinstance(feature, LargeList):
        return LargeList(_exact(feature.feature))
    return ExactJson() if type(feature) is Json else feature


def with_json(value: Any, feature: Any) -> Any:
    """Return a value in which every part that is stored as JSON is encoded as JSON text."""
    if value is None:
        return None
    if isinstance(feature, ExactJson):
        return json.dumps(value)
    if isinstance(feature, dict):
        return {name: with_json(value[name], part) for name, part in feature.items()}
    if isinstance(feature, List):
        return [with_json(part, feature.feature) for part in value]
    return value
