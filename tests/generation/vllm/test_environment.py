"""A server's environment has what vLLM reads, and nothing of the launcher that started the run."""

from pathlib import Path

import pytest

from spin_trl.generation.vllm.environment import device_groups, server_environment

LAUNCH = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "SPIN_TRL_LOOP": "pipe",
}


def test_the_key_is_there_and_the_launch_is_not(tmp_path: Path) -> None:
    parent = {**LAUNCH, "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0,1", "VLLM_API_KEY": "of the user"}
    assert server_environment("owner/model", "the key", parent=parent) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "VLLM_API_KEY": "the key",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_nothing_is_asked_of_the_hub_for_a_folder(tmp_path: Path) -> None:
    assert server_environment(str(tmp_path), "key", parent={})["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in server_environment("owner/model", "key", parent={})


def test_adapters_can_be_loaded_only_where_they_are() -> None:
    name = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert server_environment("m", "key", loads_adapters=True, parent={})[name] == "True"
    assert name not in server_environment("m", "key", parent={})


def test_a_server_sees_its_own_gpus() -> None:
    assert (
        server_environment("m", "key", devices="3", parent={"CUDA_VISIBLE_DEVICES": "2,3"})["CUDA_VISIBLE_DEVICES"]
        == "3"
    )


@pytest.mark.parametrize(
    ("count", "per_server", "visible", "groups"),
    [
        (2, 1, None, ["0", "1"]),
        (4, 2, None, ["0,1", "2,3"]),
        (3, 2, None, ["0,1"]),
        (2, 1, "5, 7", ["5", "7"]),
        (2, 2, "GPU-a,GPU-b", ["GPU-a,GPU-b"]),
        (1, 2, None, []),
        (0, 1, "", []),
    ],
)
def test_gpus_are_divided_among_servers(count: int, per_server: int, visible: str | None, groups: list[str]) -> None:
    assert device_groups(count, per_server, visible) == groups
