"""A small model with an adapter that has learned something, and its logits, for tests of loading and of digests."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from spin_trl.config.iteration import SPINConfig

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
IDS = torch.arange(5, 25).unsqueeze(0)


def settings(**overrides: Any) -> SPINConfig:
    """Return settings for a CPU."""
    return SPINConfig(**{"output_dir": "out", "use_cpu": True, "bf16": False, **overrides})


def adapted(folder: Path, seed: int = 3) -> PeftModel:
    """Return the model of a folder with an adapter whose B is not zero."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**LORA))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model.eval()


def scores(model: Any) -> torch.Tensor:
    """Return a model's logits."""
    with torch.no_grad():
        return model.eval()(IDS).logits
