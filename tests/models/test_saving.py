"""Files written by torch and safetensors get their checksums without being read back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spin_trl import SPINConfig
from spin_trl.files import Checksum, write_json
from spin_trl.models.eos import add_eos_ids
from spin_trl.models.policy import load_policy
from spin_trl.models.saving import hashing, make_savable


@pytest.mark.parametrize("place", [str, Path], ids=["str", "Path"])
def test_torch_and_safetensors_are_hashed_from_memory(place: type, tmp_path: Path) -> None:
    """Weights may have several dtypes, be empty or have no dimensions; loading returns what was saved."""
    weights = {
        "b": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "a": torch.randn(300, 7),
        "scalar": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "long": torch.arange(5),
    }
    with hashing() as found:
        save_file(weights, place(tmp_path / "model.safetensors"), metadata={"format": "pt"})
        torch.save(weights, place(tmp_path / "optimizer.pt"))
    assert found == {path: Checksum.of(path) for path in tmp_path.iterdir()}
    for loaded in (
        load_file(tmp_path / "model.safetensors"),
        torch.load(tmp_path / "optimizer.pt", weights_only=True),
    ):
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_damage_between_memory_and_disk_is_found(tmp_path: Path) -> None:
    """A second read would have hashed the damage: here a bit changes before anyone could read the file."""
    path = tmp_path / "model.safetensors"
    with hashing() as found:
        save_file({"a": torch.ones(8)}, path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert found[path.resolve()] != Checksum.of(path)


def test_nothing_is_hashed_afterwards(tmp_path: Path) -> None:
    """The libraries' functions are restored."""
    save = torch.save
    with hashing() as found:
        assert torch.save is not save
    torch.save(1, tmp_path / "later.pt")
    assert torch.save is save
    assert found == {}


def test_what_is_written_whole_is_among_it(tmp_path: Path) -> None:
    """So all files of a step are known, whichever code writes them."""
    with hashing() as found:
        write_json(tmp_path / "metrics.json", {"nll": 1.0})
    assert found == {tmp_path / "metrics.json": Checksum.of(tmp_path / "metrics.json")}


def test_sampling_without_do_sample_can_be_saved(llama_folder: Path, tmp_path: Path) -> None:
    """Many published models have such settings. With other EOS ids, transformers would refuse to save them after the
    training.
    """
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}', encoding="utf-8")
    model = load_policy(folder, SPINConfig("out", use_cpu=True, bf16=False))
    add_eos_ids(model, [2, 3])
    model.save_pretrained(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "generation_config.json").read_text(encoding="utf-8"))
    assert (said["temperature"], said["top_p"], said["do_sample"]) == (0.6, 0.9, True)


def test_a_generation_configuration_that_is_in_order_stays(llama_folder: Path) -> None:
    model = load_policy(llama_folder, SPINConfig("out", use_cpu=True, bf16=False))
    before = model.generation_config.to_dict()
    assert make_savable(model) is None
    assert model.generation_config.to_dict() == before
