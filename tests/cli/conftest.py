"""Fixtures shared by the tests of the command."""

import pytest
import yaml

import tiny

SETTINGS = {
    "num_iterations": 2, "max_length": 96, "max_new_tokens": 8, "per_device_train_batch_size": 4, "num_train_epochs": 1,
    "generation_batch_size": 4, "held_out_fraction": 0.2, "use_cpu": True, "bf16": False, "report_to": "none",
    "activation_checkpointing": False, "disable_tqdm": True, "learning_rate": 1e-3, "loss_type": "space",
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, llama_folder):
    """Return a function that writes a recipe for tiny data with the given settings, and returns its path."""

    def write(name="my", **changes):
        data = tmp_path / "train.jsonl"
        if not data.exists():
            tiny.write_jsonl(data, tiny.sft(12))
        settings = {**SETTINGS, "model_name_or_path": str(llama_folder), "dataset_name": str(data)}
        settings = {key: value for key, value in {**settings, **changes}.items() if value is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path)

    return write
