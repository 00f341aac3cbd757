"""The checks, in order of importance. To add one, write a function that takes a `Session`, and list it here."""

from __future__ import annotations

from . import correctness, device, generation_speed, planning, pretrained, recipes, training_steps
from .check import Check, Package, gpu, gpu_or_tiny

CHECKS = [
    Check("device", "names, versions, bandwidth and throughput of products", device.run, 15),
    Check("correctness", "losses, metrics and gradients, compared with DPOTrainer", correctness.run, 90),
    Check(
        "training",
        "step time and memory, compared with DPOTrainer, Qwen2.5-0.5B",
        training_steps.run,
        140,
        (gpu_or_tiny,),
    ),
    Check(
        "t4", "the recipe for a T4, in 4 bits and float16", recipes.run_t4, 75, (gpu_or_tiny, Package("bitsandbytes"))
    ),
    Check("generation", "useful tokens per second, Qwen2.5-0.5B", generation_speed.run, 50, (gpu_or_tiny,)),
    Check("generation-3b", "useful tokens per second, Qwen2.5-3B", generation_speed.run_3b, 60, (gpu_or_tiny,)),
    Check("lora-3b", "the recipe for 3B with LoRA", recipes.run_lora_3b, 85, (gpu,)),
    Check("plan", "predictions of spin-trl plan, compared with these figures", planning.run, 30),
    Check(
        "pretrained",
        "self-play on a pretrained model, compared with more SFT: the parts that are missing",
        pretrained.run,
        400,
        (gpu_or_tiny, pretrained.data_and_model),
    ),
]
