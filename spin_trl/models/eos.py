"""Find the ids that end a model's responses: all that its files name, in any of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from ..data.template.pair_template import eos_token_ids
from ..errors import DataError
from ..files import DEFINITION
from .adapters import base_of, is_adapter
from .loading import LoadSettings, loading, model_config_of
from .vocabulary import LARGEST_ID


def eos_ids_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that ends a response of a model in memory: its tokenizer's EOS, and those in both its configurations.

    Args:
        model: causal language model, or a PEFT model around one.
        tokenizer: tokenizer of the model.
    """
    known = _declared([getattr(model, name, None) for name in ("generation_config", "config")])
    return sorted({*eos_token_ids(tokenizer), *known})


def load_eos_ids(
    path: str | None, args: LoadSettings, tokenizer: PreTrainedTokenizerBase, definition: int = DEFINITION
) -> list[int]:
    """Return the same ids for a model that is not loaded, from its files, and for an adapter also from its base model's.

    Args:
        path: local folder or Hub name; None: a model built from scratch, which has no files yet.
        args: settings; the revision in `model_init_kwargs` is used.
        tokenizer: tokenizer of the model.
        definition: definition of a run's template digest. Version 0.1.0 (definition 1) read only `generation_config.json`,
            and not that of a base model.
    """
    revision = args.model_kwargs.get("revision") or "main"
    if path is None or definition == 1:
        return eos_token_ids(tokenizer, _generation_config(path, revision) if path else None)
    found = set(eos_token_ids(tokenizer))
    for place in [path, base_of(path)] if is_adapter(path) else [path]:
        found.update(_declared([_generation_config(place, revision), model_config_of(place, args)]))
    return sorted(found)


def add_eos_ids(model: Any, ids: Iterable[int]) -> None:
    """Add ids to a model's generation configuration, so that they are saved with it even if all else is lost."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        every = sorted({*_declared([config]), *ids})
        config.eos_token_id = every if len(every) > 1 else next(iter(every), None)


def own_eos_ids(path: str | os.PathLike[str]) -> list[int]:
    """Return the ids that a folder's own `generation_config.json` names."""
    return sorted(_declared([_generation_config(str(path), "main")]))


def _declared(configurations: Iterable[Any]) -> set[int]:
    found: set[int] = set()
    for configuration in configurations:
        every = [configuration]
        if isinstance(configuration, PreTrainedConfig):
            every.append(configuration.get_text_config())  # composite models nest it one level deeper
        for one in every:
            ids = getattr(one, "eos_token_id", None)
            for token in ids if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]:
                if token is None:
                    continue
                if not isinstance(token, int) or token > LARGEST_ID:
                    raise DataError(
                        f"A configuration of the model has the `eos_token_id` {ids!r}; expected one id, or several, of "
                        "its vocabulary."
                    )
                found.add(int(token))
    return {token for token in found if token >= 0}


def _generation_config(path: str, revision: str) -> GenerationConfig | None:
    file = Path(path) / GENERATION_CONFIG_NAME
    if os.path.lexists(file):
        # transformers ignores a damaged file, and with it the EOS ids.
        with loading(str(file), "read"):
            return GenerationConfig.from_pretrained(path, revision=revision)
    try:
        return GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        return None  # not every model has one
