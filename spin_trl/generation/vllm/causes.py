"""The likely cause of a server's failure, from its log: what happened, and what to change."""

from __future__ import annotations

import re
from typing import NamedTuple


class Cause(NamedTuple):
    """A kind of failure.

    Attributes:
        name: name by which code and tests refer to it.
        pattern: regular expression that is found in the log.
        sentence: description of the problem and its remedy.
    """

    name: str
    pattern: str
    sentence: str


PORT_TAKEN = "port taken"

CAUSES = (
    Cause(
        PORT_TAKEN,
        r"Address already in use|address already in use|EADDRINUSE",
        "Another program took the server's port. Run the same command again.",
    ),
    Cause(
        "no command",
        r"spin-trl: '.*' can't be started",
        "The command of vLLM can't be started. Name it in `vllm_command`, with its full path if it is in an environment of "
        "its own.",
    ),
    Cause(
        "head size",
        r"Unsupported CPU attention configuration: head_dim|[Hh]ead[_ ](?:size|dim)\b.{0,80}not supported|"
        r"[Uu]nsupported head[_ ](?:size|dim)|[Ss]upported head[_ ]sizes",
        "vLLM has no attention kernel for this model's head size (hidden size / attention heads) on this device. Use the "
        "engine `transformers`, or a model with another head size.",
    ),
    Cause(
        "architecture",
        r"Model architectures? .{0,200}(?:not supported|failed to be inspected)|does not recognize this architecture|"
        r"has no vLLM implementation",
        "This version of vLLM, or the transformers in its environment, does not know the model's architecture. Install a "
        "newer vLLM, or use the engine `transformers`.",
    ),
    Cause(
        "no LoRA",
        r"does not support LoRA",
        "vLLM can't apply adapters to models of this architecture. Merge the adapter, or use the engine `transformers`.",
    ),
    Cause(
        "remote code",
        r"contains custom code which must be executed|(?:argument|option|set|with) [`'\"]?(?:--)?trust[_-]remote[_-]code",
        "The model's own code is needed. If you trust it, set `trust_remote_code: true`.",
    ),
    Cause(
        "memory in use",
        r"(?:Free memory on device|Available memory on node) .{0,120}less than (?:desired|requested)",
        "Other processes use the device's memory. End them (`nvidia-smi` lists those on GPUs), or lower "
        "`--gpu-memory-utilization` in `vllm_args`.",
    ),
    Cause(
        "KV memory",
        r"To serve at least one request with|No available memory for the cache blocks|"
        r"(?:max|maximum) (?:seq|sequence|model) len.{0,200}KV cache",
        "The memory left next to the weights is too small for the keys and values of one response of full length. Lower "
        "`max_length`, free memory on the device, or divide the model among several GPUs (`tensor_parallel`).",
    ),
    Cause(
        "out of memory",
        r"CUDA out of memory|HIP out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|"
        r"std::bad_alloc|exit code 137\b|\bKilled\b",
        "The server ran out of memory. End other programs that use the device, lower `--max-num-seqs` or "
        "`--gpu-memory-utilization` in `vllm_args`, or divide the model among several GPUs (`tensor_parallel`).",
    ),
    Cause(
        "length",
        r"User-specified max_model_len .{0,200}greater than the derived",
        "`max_length` is greater than the number of positions that the model has. Lower it.",
    ),
    Cause(
        "shared memory",
        r"No space left on device.{0,200}(?:shm|psm)|(?:/dev/shm|psm_\w+).{0,200}No space left|Bus error|SIGBUS|"
        r"[Ss]hared memory.{0,80}(?:too small|not enough|insufficient)",
        "There is not enough shared memory (/dev/shm). In a container, enlarge it: `docker run --shm-size 8g`, or "
        "`--ipc host`.",
    ),
    Cause(
        "GPUs",
        r"world size .{0,80}(?:larger|greater) than the number of available|Invalid device id|invalid device ordinal|"
        r"No CUDA GPUs are available|tensor parallel size .{0,80}(?:divisible|available)|"
        r"must be divisible by tensor parallel",
        "`tensor_parallel` does not fit the GPUs that the server sees, or the model's number of attention heads.",
    ),
    Cause(
        "driver",
        r"NVIDIA driver on your system is too old|no kernel image is available|CUDA driver version is insufficient",
        "The torch in vLLM's environment was built for another CUDA than this GPU or its driver supports. Install a build "
        "of vLLM that fits, or update the driver.",
    ),
    Cause(
        "number format",
        r"[Bb]float16 is only supported on|does not support (?:bfloat16|dtype)",
        "The device does not support the number format. Set `dtype` in the recipe, or `--dtype` in `vllm_args`.",
    ),
    Cause(
        "rank",
        r"LoRA rank \d+ is greater than max_lora_rank|max_lora_rank.{0,80}(?:must be|Input should be)",
        "The adapter's rank is greater than vLLM supports. Lower `lora_r`, or use the engine `transformers`.",
    ),
    Cause(
        "flag",
        r"error: unrecognized arguments|error: argument --|error: ambiguous option",
        "This version of vLLM does not know one of the flags. Check `vllm_args`, and the version (`vllm --version`).",
    ),
    Cause(
        "not found",
        r"RepositoryNotFoundError|GatedRepoError|LocalEntryNotFoundError|OfflineModeIsEnabled|"
        r"Can't load the configuration of|No such file or directory: .{0,200}(?:config\.json|safetensors)",
        "The model can't be read. Check its name and, for the Hub, the connection and the login (`hf auth login`).",
    ),
    Cause(
        "installation",
        r"ModuleNotFoundError|ImportError|undefined symbol|cannot open shared object file|PackageNotFoundError|"
        r"requires a different Python|SyntaxError|No module named|Failed to infer device type",
        "vLLM's environment is incomplete or mixes versions, such as another torch than vLLM was built with. Install vLLM "
        "in an environment of its own, and name its command in `vllm_command`.",
    ),
    Cause(
        "disk full",
        r"No space left on device|Disk quota exceeded",
        "The disk is full.",
    ),
)
"""Kinds of failure, the more specific first."""

_COMPILED = [(cause, re.compile(cause.pattern)) for cause in CAUSES]
_ERROR = re.compile(r"(?:^|\s)((?:[\w.]+\.)?\w+(?:Error|Exception|Interrupt): \S.*)$", re.MULTILINE)
_NO_CAUSE = re.compile(
    r"Engine core initialization failed|Engine core proc .* died|EngineDeadError|WorkerProc initialization"
)
"""Errors that only report that another process failed."""

_NOTICE = re.compile(r"(?:^|\s)(?:DEBUG|INFO|WARNING) \d\d-\d\d \d\d:")
"""The beginning of a line of vLLM's log, below the level of an error."""


def cause_in(log: str) -> Cause | None:
    """Return the likely cause of a failure, or None if nothing in the log is recognised."""
    text = _without_notices(log)
    return next((cause for cause, pattern in _COMPILED if pattern.search(text)), None)


def first_error(log: str) -> str | None:
    """Return the first error of a log that is not just the report of another process's failure, or None."""
    found = (match[1] for match in _ERROR.finditer(_without_notices(log)))
    return next((error for error in found if not _NO_CAUSE.search(error)), None)


def _without_notices(log: str) -> str:
    """Leave out what vLLM logs as a warning or less: a server that starts has many, also with names of errors in them."""
    return "\n".join(line for line in log.splitlines() if not _NOTICE.search(line))
