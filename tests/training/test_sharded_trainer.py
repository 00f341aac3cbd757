"""The trainer works on weights that are sharded over two processes by torch's own `fully_shard`.

Accelerate enables FSDP on GPUs only, and on a CPU silently trains something else. So the weights are sharded by hand
here, behind the trainer's back, and every test asserts the class that torch turns them into.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel

import tiny
from messages import names
from processes import TWO, launched
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.errors import OpponentError
from spin_trl.models.adapters import is_adapter
from spin_trl.models.policy import load_policy

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

SCRIPT = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TESTS_PATH"])
import torch.distributed as dist
from training.test_sharded_trainer import played
dist.init_process_group("gloo")
found = played(sys.argv[1], sys.argv[2])
if dist.get_rank() == 0:
    open(sys.argv[3], "w", encoding="utf-8").write(json.dumps(found))
dist.destroy_process_group()
"""
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "lora_dropout": 0.0}
LEARNING_RATE = 1.0


def trainer_of(folder: str, generations: Any = None, output_dir: str = "out") -> SPINTrainer:
    """Return a trainer for one iteration from a folder with full weights, or with an adapter, whose opponent is its
    frozen copy.
    """
    args = SPINConfig(
        output_dir=output_dir, use_cpu=True, bf16=False, activation_checkpointing=False, max_length=64, max_new_tokens=8,
        per_device_train_batch_size=2, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=1,
        dataloader_pin_memory=False, learning_rate=1e-2,
    )  # fmt: skip
    model = load_policy(folder, args, trainable=True) if is_adapter(folder) else folder
    return SPINTrainer(
        model, args=args, train_dataset=tiny.sft(8), processing_class=tiny.tokenizer(), generations=generations
    )


def shard(model: Any) -> str:
    """Shard a model over all processes, layer by layer; return its class after that."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    for layer in inner.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return type(model).__name__


def step(trainer: SPINTrainer, batch: Any, *, sharded: bool) -> tuple[float, float]:
    """Return the loss of a batch before and after a step of plain gradient descent on the batches of both processes."""
    model = trainer.model.train()
    trainer.state.global_step = 0
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            if not sharded:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
            parameter -= LEARNING_RATE * parameter.grad
            parameter.grad = None
    trainer.state.global_step = 1
    with torch.no_grad():
        return float(loss), float(trainer.compute_loss(model, dict(batch)))


def played(folder: str, generations: str) -> dict[str, Any]:
    """Take one step with whole and with sharded weights on each process's own pairs, and with a policy that is not its
    opponent.
    """
    whole = trainer_of(folder, generations)
    batch = next(iter(whole.get_train_dataloader()))
    expected = step(whole, batch, sharded=False)
    parts = trainer_of(folder, generations)
    wrapper = shard(parts.model)
    found = step(parts, batch, sharded=True)
    # After the step, the policy is no longer its opponent; at step 0 that must be detected.
    parts.state.global_step = 0
    try:
        parts.compute_loss(parts.model, dict(batch))
        noticed = "nothing"
    except OpponentError as error:
        noticed = str(error)
    return {
        "wrapper": wrapper,
        "whole": expected,
        "sharded": found,
        "noticed": noticed,
        "pairs": len(batch["input_ids"]) // 2,
    }


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_step_on_sharded_weights_is_that_of_whole_ones(kind: str, tmp_path: Path, llama_folder: Path) -> None:
    """It starts at its opponent (ln 2), moves equally far, and a policy that differs from its opponent is detected."""
    folder = llama_folder
    if kind == "adapter":
        first = SPINTrainer(
            str(llama_folder), args=trainer_of(str(llama_folder)).args, train_dataset=tiny.sft(8),
            processing_class=tiny.tokenizer(), peft_config=LoraConfig(**LORA),
        )  # fmt: skip
        first.train()
        folder = tmp_path / "adapter"
        first.save_model(str(folder))
    made = trainer_of(str(folder), output_dir=str(tmp_path / "made"))
    made.train()
    (generations,) = (tmp_path / "made" / "generations").glob("train-*")
    script, result = tmp_path / "sharded.py", tmp_path / "sharded.json"
    script.write_text(SCRIPT, encoding="utf-8")
    launched(["torch.distributed.run", *TWO, str(script), str(folder), str(generations), str(result)])
    found = json.loads(result.read_text(encoding="utf-8"))
    assert found["wrapper"] == ("FSDPLlamaForCausalLM" if kind == "full" else "FSDPPeftModelForCausalLM")
    assert found["pairs"] == 2
    assert found["sharded"][0] == pytest.approx(0.6931472, abs=1e-5)
    assert found["sharded"] == pytest.approx(found["whole"], abs=1e-5)
    assert found["sharded"][1] < 0.69
    assert names(found["noticed"], "`check_opponent: false`")
