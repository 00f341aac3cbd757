"""Where a model and its data come from, as exactly as possible: Hub names with commits.

A model trained from a local folder comes from the model at the root of its chain of folders, which is followed through cards
and adapter configurations; its card names that model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from ..data.reading.local import is_local
from ..files import home_expanded, parse_json

COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_HUB = re.compile(r"^hf://datasets/(?P<name>[^@]+)@(?P<commit>[0-9a-f]{40})/")
_FILES_OF_MODELS = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""Configuration files; every model has at least one of them. Their location in the cache tells which commit was loaded."""


@dataclass(frozen=True)
class Origin:
    """The model or dataset that a run started from.

    Attributes:
        name: Hub name, or name of a local file or folder without its path, which is specific to one machine.
        on_hub: whether it is a Hub name.
        commit: commit that was loaded, or None if it is not known.
        base: for a local model, the Hub model at the root of its chain; otherwise None.
    """

    name: str
    on_hub: bool = False
    commit: str | None = None
    base: str | None = None

    @property
    def root(self) -> str | None:
        """The Hub name that it is or comes from; None if there is none."""
        return self.name if self.on_hub else self.base

    def as_dict(self) -> dict[str, Any]:
        """Return the origin as the journal stores it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}


def origin_from(found: Any) -> Origin | None:
    """Return an origin from the journal, or None if it records none."""
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        return None
    return Origin(found["name"], bool(found.get("on_hub")), found.get("commit"), found.get("base"))


def model_origin(model: str, revision: str | None = None) -> Origin:
    """Return the origin of a start. Nothing is fetched: the loaded model is in the cache.

    Args:
        model: Hub name, or a folder.
        revision: revision in the settings.
    """
    if os.path.isdir(model):
        return Origin(Path(model).resolve().name, base=base_model(model))
    return Origin(model, on_hub=True, commit=_cached_commit(model, "model", revision))


def dataset_origin(dataset: Any, name: str | None = None, revision: str | None = None) -> Origin | None:
    """Return the origin of a dataset, from what `datasets` stores with it, or else from the settings.

    Args:
        dataset: dataset as loaded.
        name: name in the settings: a file, a folder, `module:function`, or a Hub name; None if it was given as an object.
        revision: revision in the settings.

    Returns:
        The origin, or None if it can't be determined.
    """
    checksums = getattr(getattr(dataset, "info", None), "download_checksums", None) or {}
    for url in checksums:
        if found := _OF_HUB.match(str(url)):
            return Origin(found["name"], on_hub=True, commit=found["commit"])
    if name is None:
        return None
    if is_local(name):
        return Origin(home_expanded(name).name)
    if ":" in name:
        return Origin(name)
    return Origin(name, on_hub=True, commit=_cached_commit(name, "dataset", revision))


def _cached_commit(name: str, kind: str, revision: str | None) -> str | None:
    """Return the commit that the cache holds for a repository's revision."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    for file in _FILES_OF_MODELS if kind == "model" else ():
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str) and COMMIT.fullmatch(Path(found).parent.name):
            return Path(found).parent.name
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    reference = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


UNKNOWN_BASE = "fine-tuned version of [None](https://huggingface.co/None)"


def base_model(path: str | os.PathLike[str]) -> str | None:
    """Return the Hub model at the root of a local model, following cards and adapter configurations folder by folder."""
    seen: set[str] = set()
    name = str(path)
    while os.path.isdir(name) and name not in seen:
        seen.add(name)
        name = _parent(Path(name)) or ""
    return name or None


def complete_card(path: Path, start: str) -> None:
    """Add the base model to a card that TRL wrote without one, because training started from a local folder.

    Args:
        path: file of the card.
        start: folder or Hub name that training started from.
    """
    if not os.path.isdir(start):
        return
    card = ModelCard.load(path)
    base = base_model(start)
    known = f"fine-tuned version of [{base}](https://huggingface.co/{base})" if base else "model trained from scratch"
    card.text = card.text.replace(f"a {UNKNOWN_BASE}", f"a {known}").replace(
        'model="None"', 'model="path/to/this/folder"'
    )
    if base:
        card.data.base_model = base
    card.save(path)


def _parent(folder: Path) -> str | None:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        try:
            return parse_json(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):  # reported by the code that loads it
            return None
    card = folder / "README.md"
    try:
        base = ModelCard.load(card).data.base_model if card.is_file() else None
    except (ValueError, yaml.YAMLError):  # an unreadable card names no model
        return None
    return base[0] if isinstance(base, list) and base else base or None
