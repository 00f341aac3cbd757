"""Model cards that know where a model comes from, also when it was trained from a local folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

UNKNOWN = "fine-tuned version of [None](https://huggingface.co/None)"


def base_model(path: str | os.PathLike[str]) -> str | None:
    """The Hub model at the root of a local model: through its card and its adapter's config, folder by folder."""
    seen: set[str] = set()
    name = str(path)
    while os.path.isdir(name) and name not in seen:
        seen.add(name)
        name = _parent(Path(name)) or ""
    return name or None


def complete_card(path: Path, start: str) -> None:
    """Put the base model into a card that TRL wrote without one, because training started from a local folder.

    Args:
        path: the card.
        start: folder or Hub name that training started from.
    """
    if not os.path.isdir(start):
        return
    card = ModelCard.load(path)
    base = base_model(start)
    known = f"fine-tuned version of [{base}](https://huggingface.co/{base})" if base else "model trained from scratch"
    card.text = card.text.replace(f"a {UNKNOWN}", f"a {known}").replace('model="None"', 'model="path/to/this/folder"')
    if base:
        card.data.base_model = base
    card.save(path)


def _parent(folder: Path) -> str | None:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    card = folder / "README.md"
    try:
        base = ModelCard.load(card).data.base_model if card.is_file() else None
    except (ValueError, yaml.YAMLError):  # a card that nobody can read names no model
        return None
    return base[0] if isinstance(base, list) and base else base or None
