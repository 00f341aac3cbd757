"""An error while something is loaded becomes a message that names it, whichever library raised it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from transformers import LlamaConfig

from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.models.loading import loading, model_config_of


@dataclass
class Settings:
    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("no such file"), None),
        (ValueError("an odd value"), None),
        (Exception("data did not match any variant"), None),  # tokenizers' own message
        (KeyError("model_type"), "KeyError"),
        (TypeError("not a dict"), "TypeError"),
        (AttributeError("no attribute"), "AttributeError"),
        (SafetensorError("header too large"), "SafetensorError"),
        (FileNotFoundError("gone"), "FileNotFoundError"),
    ],
)
def test_what_libraries_raise_is_a_message(error: Exception, kind: str | None) -> None:
    """If an error says little itself, its class is named."""
    with refused(DataError, "The model 'org/m'", "read", str(error)) as refusal, loading("The model 'org/m'", "read"):
        raise error
    assert refusal.value.__cause__ is error
    assert kind is None or names(str(refusal.value), f"{kind}:")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_file_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as found, loading("The model"):
        raise error
    assert found.value is error


def test_a_message_of_ours_passes_as_it_is() -> None:
    error = DataError("The tokenizer has no EOS.")
    with pytest.raises(DataError) as found, loading("The model"):
        raise error
    assert found.value is error


def test_a_configuration_is_read_or_there_is_none(llama_folder: Path, tmp_path: Path) -> None:
    """An adapter's folder has none; errors in a configuration are reported when the model is loaded."""
    config = model_config_of(str(llama_folder), Settings())
    assert config is not None
    assert config.model_type == "llama"
    assert model_config_of(str(tmp_path), Settings()) is None
    for text in ("{", "[]", '{"model_type": "nonsense"}'):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert model_config_of(str(tmp_path), Settings()) is None


def test_the_revision_counts_and_other_arguments_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "spin_trl.models.loading.AutoConfig.from_pretrained",
        lambda path, **options: asked.append({"path": path, **options}) or LlamaConfig(),
    )
    model_config_of("org/m", Settings(trust_remote_code=True, model_kwargs={"revision": "abc", "dtype": "auto"}))
    assert asked == [{"path": "org/m", "trust_remote_code": True, "revision": "abc"}]


def test_a_configuration_with_more_layers_than_weights_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    """Building layers takes milliseconds each, so ten thousand of them would look like a hang."""
    folder = tmp_path / "copy"
    shutil.copytree(llama_folder, folder)
    known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        weights = file.keys()
    for layers in (len(weights), len(weights) + 1):
        (folder / "config.json").write_text(json.dumps({**known, "num_hidden_layers": layers}), encoding="utf-8")
        if layers == len(weights):
            assert model_config_of(str(folder), Settings()) is not None
        else:
            with refused(DataError, folder, "`num_hidden_layers`", layers, len(weights)):
                model_config_of(str(folder), Settings())
    # The index of a model in several files says how many weights there are.
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(map(str, range(layers)), "model.safetensors")}), encoding="utf-8"
    )
    assert model_config_of(str(folder), Settings()) is not None
    (folder / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    assert model_config_of(str(folder), Settings()) is not None  # loading the model reports damaged weights
