"""What holds for every test: nothing is fetched, nothing is written outside temporary folders, output stays short."""

import os
import tempfile
from pathlib import Path

# Before any library of Hugging Face is imported: they read these once.
_CACHES = tempfile.TemporaryDirectory(prefix="spin-trl-tests-")
os.environ.update(
    {
        "HF_HOME": _CACHES.name,
        "HF_HUB_CACHE": f"{_CACHES.name}/hub",
        "HF_DATASETS_CACHE": f"{_CACHES.name}/datasets",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "MPLBACKEND": "Agg",
    }
)
# A test runs on a CPU, alone: an outer launcher's variables would make every trainer think that it is a rank.
for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "HF_TOKEN"):
    os.environ.pop(_name, None)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tiny


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A fresh tiny tokenizer with ChatML; a trainer may change its pad token."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama and its tokenizer, saved once for all tests. Read only."""
    return tiny.save(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def llama(llama_folder: Path) -> PreTrainedModel:
    """The tiny Llama loaded from its folder, where a trainer finds its reference."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llama_folder)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, such as the default output folder, end up in the test's temporary folder."""
    monkeypatch.chdir(tmp_path)
