"""Fixtures and settings for every test, on any machine and in any order.

Nothing is downloaded, nothing is written outside temporary folders, and output stays short. A test takes nothing from
the shell that starts it, and leaves nothing to the test that comes after it.
"""

import gc
import logging
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A launcher, a cluster, a notebook or a shell sets these: they would turn a trainer into a rank or a log into a
# terminal, or send requests meant for this machine through a proxy.
_OF_OTHERS = (
    "ACCELERATE_", "FSDP_", "HF_", "HUGGINGFACE_", "JUPYTER_", "SBATCH_", "SLURM_", "SPIN_TRL_", "SRUN_", "TORCHELASTIC_",
    "JUDGE_", "TRACKIO_", "TRANSFORMERS_", "WANDB_", "XDG_", "CLICOLOR", "COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES",
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NO_COLOR", "RANK", "TENSORBOARD_LOGGING_DIR",
    "TTY_COMPATIBLE", "TTY_INTERACTIVE", "WORLD_SIZE",
    "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy",
)  # fmt: skip
"""Names of variables, or prefixes of names."""
for _name in [name for name in os.environ if name.startswith(_OF_OTHERS)]:
    del os.environ[_name]
# Set before any Hugging Face library is imported, as they read these once.
_CACHES = tempfile.TemporaryDirectory(prefix="spin-trl-tests-")
os.environ.update(
    {
        "HOME": _CACHES.name,  # it may be missing, or read only
        "HF_HOME": _CACHES.name,
        "HF_HUB_CACHE": f"{_CACHES.name}/hub",
        "HF_DATASETS_CACHE": f"{_CACHES.name}/datasets",
        # Code compiled for one set of CPU instructions (`ATEN_CPU_CAPABILITY`) gives wrong numbers with another.
        "TORCHINDUCTOR_CACHE_DIR": f"{_CACHES.name}/compiled",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "MPLBACKEND": "Agg",
        "TERM": "xterm-256color",  # for a test that sets up its own terminal
    }
)
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests run on a CPU, even if a cluster has assigned a GPU
# A shell starts background jobs with SIGINT ignored, and their child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tiny
from spin_trl.config.fetched import FETCHABLE, folder_of
from undrawn import draw_nothing


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """Return the test's temporary folder, whose name has a space, as home folders and mounted drives may have."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a new tiny tokenizer with ChatML; a trainer may change its pad token."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny Llama and its tokenizer, saved once for all tests and only read."""
    return tiny.save(tmp_path_factory.mktemp("tiny llama"))


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path) -> None:
    """Return the tiny Llama under the names of the models that `spin-trl fetch` gets, which recipes name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in FETCHABLE:
        shutil.copytree(llama_folder, folder_of(name))


@pytest.fixture
def llama(llama_folder: Path) -> PreTrainedModel:
    """Return the tiny Llama loaded from its folder, where a trainer finds its reference."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llama_folder)


@pytest.fixture(scope="session", autouse=True)
def _what_is_imported_stays() -> None:
    """Exempt what was imported to collect the tests from garbage collection, which a run asks for after every phase: going
    through all of it takes a third of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _drawn_only_where_it_matters(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw no charts in tests of runs, except in modules marked `drawn`."""
    top = request.path.relative_to(Path(__file__).parent).parts[0]
    with pytest.MonkeyPatch.context() as patch:
        if top in ("play", "hub", "run", "cli") and not request.node.get_closest_marker("drawn"):
            draw_nothing(patch)
        yield


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put relative paths, such as the default output folder, into the test's temporary folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _alike_in_any_order() -> Iterator[None]:
    """Give every test the same random numbers, whatever its position, and undo its changes before the next one.

    Environment variables and logger levels, which a command sets for its process, are restored. What the package must
    never change is checked.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    environment, levels, settings = _environment(), _levels(), _settings()
    yield
    for name in _environment().keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    for name, level in _levels().items():
        if level != levels.get(name, level):
            logging.getLogger(name).setLevel(levels[name])
    assert _settings() == settings


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _levels() -> dict[str, int]:
    """Return the levels of all existing loggers, by name."""
    loggers = logging.root.manager.loggerDict
    return {name: logger.level for name, logger in loggers.items() if isinstance(logger, logging.Logger)}


def _settings() -> dict[str, object]:
    """Return the settings of the whole process."""
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tying": PreTrainedModel.tie_weights,  # two threads that load models at the same time leave it replaced
        "SIGINT": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a running Chromium, its own or the system's; tests are skipped without it, or without `playwright`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no `playwright` package")
    system = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with playwright.sync_playwright() as started:
        executable = system or started.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("there is no Chromium")
        launched = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()
