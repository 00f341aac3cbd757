"""Convert a GGUF file to a model folder that everything else can load, train and save again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ..errors import DataError
from .loading import loading


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's weights, in float32, and its tokenizer to a folder.

    `save_pretrained` refuses a model that was read from GGUF, whose configuration says that it is quantised. So the
    dequantised weights are copied into a model whose configuration does not.

    Args:
        file: GGUF file of a causal language model.
        folder: folder to write to.

    Raises:
        DataError: if the package gguf is missing, or the file can't be read.
    """
    if importlib.util.find_spec("gguf") is None:
        raise DataError("Reading GGUF files needs the package gguf: `pip install 'spin_trl[gguf]'`.")
    with loading(f"The GGUF file {file}", "read"):
        read: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model: Any = type(read)(type(read.config)(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
