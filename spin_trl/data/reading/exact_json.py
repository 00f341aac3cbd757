"""Values of any shape in a column: stored as JSON, and read back exactly.

`datasets.Json` reads numbers with ujson, which makes 0.6000000000000001 of 0.6, and text that is JSON by chance ("7",
"true", "null") comes back as what it says. This one keeps both.
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
        """The text that is stored."""
        return None if example_data is None else json.dumps(example_data)

    def decode_example(self, example_data: str | None, token_per_repo_id: Any = None) -> Any:
        """The value that was stored."""
        return None if example_data is None else json.loads(example_data)

    def cast_storage(self, storage: Any) -> Any:
        """Arrow strings that hold JSON already, as Arrow's type for it."""
        if isinstance(storage, pa.ExtensionArray):
            return storage
        return pa.ExtensionArray.from_storage(self.pa_type, storage.cast(self.pa_type.storage_type))


with warnings.catch_warnings():  # `datasets` calls its register experimental
    warnings.simplefilter("ignore")
    register_feature(ExactJson, "ExactJson")


def read_exactly(dataset: Dataset) -> Dataset:
    """The same dataset, with every `datasets.Json` in it read as [`ExactJson`] is. What is stored stays as it is."""
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
    """A value with all that is stored as JSON written down as that."""
    if value is None:
        return None
    if isinstance(feature, ExactJson):
        return json.dumps(value)
    if isinstance(feature, dict):
        return {name: with_json(value[name], part) for name, part in feature.items()}
    if isinstance(feature, List):
        return [with_json(part, feature.feature) for part in value]
    return value
