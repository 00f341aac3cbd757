"""The command line of `vllm serve`, derived from a run's settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...config.arguments import Option, options_of, without_options
from ...config.credentials import refuse_in_arguments
from ...errors import RecipeError

HOST = "127.0.0.1"
"""The only address that a server of the run listens on."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank` that vLLM accepts (`MaxLoRARanks` in vllm/config/lora.py, the same from 0.11 to 0.31)."""

_SHORT = {"-t": "tensor-parallel-size", "-tp": "tensor-parallel-size", "-h": "help"}
"""Short forms of options that the run decides."""

_MEMORY = frozenset({"gpu-memory-utilization", "device-memory-utilization", "kv-cache-memory-bytes"})
"""Options of which one alone decides the server's memory."""

_OF_THE_RUN = {
    "model": "the run decides which weights it serves",
    "served-model-name": "the run's requests name the model",
    "host": f"the run's servers listen on {HOST} only",
    "port": "the run picks a free port for every server",
    "uds": "the run sends its requests to a port",
    "root-path": "the run's requests have no such prefix",
    "config": "a file could set any flag, among them those that the run depends on. List the flags themselves",
    "revision": "it is that of the recipe (`model_revision`)",
    "trust-remote-code": "it is that of the recipe (`trust_remote_code`)",
    "generation-config": "every sampling setting is the run's, none the model's",
    "override-generation-config": "every sampling setting is the run's, none the model's",
    "tensor-parallel-size": "the run divides the GPUs among its servers (`tensor_parallel`)",
    "lora-modules": "the run loads its adapters itself",
    "enable-lora": "the run loads its adapters itself",
    "ssl-keyfile": "the run's servers listen on this machine only, without encryption",
    "ssl-certfile": "the run's servers listen on this machine only, without encryption",
    "headless": "such a server answers no requests",
    "help": "the server would not start",
    "version": "the server would not start",
    "api-key": "a command line is visible to every user. The run makes a key for every server",
}
"""Options that `vllm_args` may not have, with the reason."""


@dataclass(frozen=True)
class Flags:
    """What is served, and how.

    Attributes:
        model: folder or Hub name of the model; for LoRA, of the base model.
        name: name by which requests ask for the model.
        dtype: number format of the weights, the same in which the trainer computes log-probabilities.
        max_length: maximum tokens of a prompt and its response together; None: the model's own limit.
        max_num_seqs: maximum responses that are generated at the same time; None: vLLM's default for the device.
        memory_share: share of the device's memory that the server may use, from [`memory.memory_share`]; on a CPU, of the
            machine's memory, where `kv_cache_bytes` is the better setting. None: vLLM's default, 0.92.
        kv_cache_bytes: bytes for keys and values, from [`memory.kv_cache_bytes`]; vLLM then ignores `memory_share`. None:
            what the share leaves.
        tensor_parallel: number of GPUs that the model is divided among.
        lora_rank: maximum rank of adapters that are loaded later; None: no adapters.
        revision: revision on the Hub.
        trust_remote_code: whether code that comes with the model may run.
        more: further arguments of the user (`vllm_args`). An option that is also ours replaces ours.
    """

    model: str
    name: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int | None = None
    max_num_seqs: int | None = None
    memory_share: float | None = None
    kv_cache_bytes: int | None = None
    tensor_parallel: int = 1
    lora_rank: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    more: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_more(self.more)

    @property
    def sequences(self) -> int | None:
        """The maximum responses that are generated at the same time, also if `vllm_args` sets it; None: not known."""
        given = [value for option in _options(self.more) if option.name == "max-num-seqs" for value in option.values]
        if not given:
            return self.max_num_seqs
        return int(given[-1]) if given[-1].isdecimal() else None

    def arguments(self, port: int) -> list[str]:
        """Return the arguments after the command of vLLM.

        Raises:
            RecipeError: if adapters have a greater rank than vLLM supports.
        """
        given: dict[str, object] = {
            "host": HOST,
            "port": port,
            "served-model-name": self.name,
            "dtype": self.dtype,
            "max-model-len": self.max_length,
            "max-num-seqs": self.max_num_seqs,
            "gpu-memory-utilization": self.memory_share,
            "kv-cache-memory-bytes": self.kv_cache_bytes,
            "tensor-parallel-size": self.tensor_parallel if self.tensor_parallel > 1 else None,
            "revision": self.revision,
            "generation-config": "vllm",
            "max-lora-rank": None if self.lora_rank is None else lora_rank_for(self.lora_rank),
        }
        switches = ["enable-prefix-caching", "disable-uvicorn-access-log"]
        switches += ["enable-lora"] if self.lora_rank is not None else []
        switches += ["trust-remote-code"] if self.trust_remote_code else []
        ours = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
        ours += [f"--{name}" for name in switches]
        return ["serve", self.model, *without_options(ours, _replaced(self.more)), *self.more]


def check_more(more: Sequence[str]) -> None:
    """Raise if the user's arguments have a credential, or an option that the run decides.

    Args:
        more: arguments, as after `vllm serve MODEL`.

    Raises:
        RecipeError: if they do.
    """
    refuse_in_arguments(more)
    first, *options = _options(more)
    if first.values:
        raise RecipeError(
            f"`vllm_args` starts with {first.values[0]!r}; expected an option, such as `--enforce-eager`."
        )
    for option in options:
        # Python's argparse accepts the beginning of an option's name, so `--por 80` would set the port.
        given = option.name.removeprefix("no-")
        name = next((name for name in _OF_THE_RUN if given and name.startswith(given)), None)
        if name is not None:
            raise RecipeError(f"`vllm_args` can't have `--{name}`: {_OF_THE_RUN[name]}.")
        if not option.name:
            raise RecipeError("`vllm_args` has an option without a name (`--`). Remove it.")


def _replaced(more: Sequence[str]) -> set[str]:
    """Return the names of options that the user's arguments set, or switch off (`--no-enable-prefix-caching`)."""
    names = {option.name for option in _options(more)}
    opposites = {name.removeprefix("no-") for name in names if name.startswith("no-")}
    return names | opposites | (_MEMORY if names & _MEMORY else set())


def _options(more: Sequence[str]) -> list[Option]:
    """Return options with their long names as in vLLM's documentation, with dashes; unknown short ones keep their dash."""
    long = []
    for argument in more:
        name, equals, value = argument.partition("=")
        if name in _SHORT:
            argument = f"--{_SHORT[name]}{equals}{value}"
        elif re.match("-[A-Za-z]", argument):
            argument = f"--{argument}"
        long.append(argument)
    options = options_of(long)
    for option in options[1:]:
        dash = "-" if option.name.startswith("-") else ""
        option.name = dash + option.name.removeprefix("-").replace("_", "-").partition(".")[0]
    return options


def lora_rank_for(rank: int) -> int:
    """Return the smallest value of `--max-lora-rank` that suffices for adapters of a rank.

    Raises:
        RecipeError: if vLLM supports no such rank.
    """
    if rank > LORA_RANKS[-1]:
        raise RecipeError(f"`lora_r` is {rank}, but vLLM loads adapters up to rank {LORA_RANKS[-1]}.")
    return next(known for known in LORA_RANKS if known >= rank)
