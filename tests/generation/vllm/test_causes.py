"""The likely cause of a failure is found in a log, behind the reports of processes that only noticed it."""

from pathlib import Path

import pytest

from spin_trl.generation.vllm.causes import CAUSES, PORT_TAKEN, cause_in, first_error
from spin_trl.generation.vllm.server_log import read_log

# Messages of vLLM 0.31, torch, transformers, Python and argparse.
LOGS = {
    PORT_TAKEN: "OSError: [Errno 98] Address already in use",
    "no command": "spin-trl: 'vllm' can't be started: [Errno 2] No such file or directory: 'vllm'",
    "head size": "RuntimeError: Unsupported CPU attention configuration: head_dim=24",
    "architecture": "ValueError: Model architectures ['SpinForCausalLM'] are not supported for now. Supported: ...",
    "no LoRA": "ValueError: GPT2LMHeadModel does not support LoRA yet.",
    "remote code": (
        "ValueError: The repository model contains custom code which must be executed to correctly load the model. Please "
        "pass the argument `trust_remote_code=True` to allow custom code to be run."
    ),
    "memory in use": (
        "ValueError: Free memory on device cuda:0 (7.34/139.72 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 125.75 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    ),
    "KV memory": (
        "ValueError: To serve at least one request with the model's max seq len (8192), (1.0 GiB KV cache is needed, which "
        "is larger than the available KV cache memory (0.5 GiB)."
    ),
    "out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    "length": (
        "Value error, User-specified max_model_len (8192) is greater than the derived max_model_len "
        "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json)."
    ),
    "shared memory": "OSError: [Errno 28] No space left on device: '/psm_6a98744f'",
    "GPUs": "ValueError: Total number of attention heads (9) must be divisible by tensor parallel size (2).",
    "driver": "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).",
    "number format": "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
    "rank": "ValueError: LoRA rank 64 is greater than max_lora_rank 16.",
    "flag": "vllm: error: unrecognized arguments: --no-such-flag",
    "not found": "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.",
    "installation": "ImportError: /site-packages/vllm/_C.abi3.so: undefined symbol: _ZN3c108ListType3getE",
    "disk full": "OSError: [Errno 28] No space left on device",
}


def test_every_cause_has_an_example_and_every_example_its_cause() -> None:
    assert [cause.name for cause in CAUSES] == list(LOGS)


@pytest.mark.parametrize("name", LOGS)
def test_a_cause_is_found_among_other_lines(name: str) -> None:
    log = (
        "INFO 11-28 12:00:00 [utils.py:1] non-default args: {'trust_remote_code': False, 'model': 'm'}\n"
        f"(EngineCore pid=7) ERROR 11-28 12:00:01 [core.py:1344] {LOGS[name]}\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    found = cause_in(log)
    assert found is not None
    assert found.name == name


def test_an_unknown_failure_has_no_cause() -> None:
    """What a server writes before it is ready includes warnings about missing modules and files that can't be opened."""
    log = read_log(Path(__file__).parent / "recorded" / "start.log")
    assert len(log.splitlines()) > 30
    assert cause_in(log) is None
    assert first_error(log) is None


def test_the_first_error_is_not_that_of_a_process_which_only_noticed_it() -> None:
    log = (
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
        "(EngineCore pid=7) ERROR 11-28 12:00:01 [core.py:1344] ValueError: the cause\n"
        "ValueError: a later one\n"
    )
    assert first_error(log) == "ValueError: the cause"
    assert first_error("nothing") is None
