"""Memory of vLLM's servers: weights and keys and values on each GPU, and how many sequences fit next to the weights."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftConfig

from ..config.engines import VLLM
from ..errors import RecipeError
from ..generation.vllm.flags import lora_rank_for
from ..generation.vllm.memory import kv_bytes_per_token, memory_share
from ..generation.vllm.refusals import lora_refusals
from .devices import Device
from .model import PlannedModel
from .setup import Setup

KV_BLOCK = 16
"""Tokens for which vLLM reserves keys and values at a time on a GPU."""

STEP_TOKENS = 8192
"""Tokens that a server computes in one step at most: vLLM's `max_num_batched_tokens` on large GPUs; less on others."""

STEP_SEQUENCES = 256
"""Sequences whose logits a server computes in one step at most: vLLM's `max_num_seqs`; on large GPUs it is more."""

GRAPHS = 0.5 * 2**30
"""Bytes of CUDA graphs, in addition to a step's activations."""

PROCESS = 0.6 * 2**30
"""Bytes of the CUDA context of the run's own process, which stays while the servers run."""


@dataclass(frozen=True)
class ServerMemory:
    """Memory of a server, on each of its GPUs or in the machine's memory.

    Attributes:
        weights: bytes of weights.
        adapter: bytes of the adapter that is loaded next to them; 0 if it is merged, or there is none.
        step: bytes of a step's activations and of CUDA graphs.
        token: bytes of keys and values per token.
        merged: bytes of the merged model on disk; 0 if no adapter is merged.
    """

    weights: int
    adapter: int
    step: int
    token: int
    merged: int = 0

    def parts(self, tokens: int) -> dict[str, int]:
        """Return the least that a server needs, by part of memory: room for one sequence of so many tokens."""
        blocks = -(-tokens // KV_BLOCK)
        kept = {"weights": self.weights, "adapters": self.adapter, "activations": self.step, "logits": 0}
        return kept | {"KV cache": self.token * blocks * KV_BLOCK}

    def room(self, device: Device) -> int:
        """Return the number of tokens whose keys and values fit on a GPU, with the share of its memory that a run gives."""
        total = round(device.memory * 2**30)
        try:
            share = memory_share(round(total - PROCESS), total)
        except RecipeError:  # not even the margin fits
            return 0
        free = share * total - self.weights - self.adapter - self.step
        return max(int(free // (self.token * KV_BLOCK)) * KV_BLOCK, 0) if self.token else 0


def server_memory(setup: Setup, replica: PlannedModel, cache_bytes_per_token: float) -> ServerMemory | None:
    """Return the memory of a run's servers; None if it generates with another engine than vLLM.

    Args:
        setup: setup of the run.
        replica: model as used in generation.
        cache_bytes_per_token: bytes per token of transformers' cache, for models whose configuration does not tell.
    """
    if setup.args.engine != VLLM:
        return None
    config, parallel = replica.base.config.get_text_config(), setup.play.tensor_parallel
    width = 2 if setup.precision != "no" else setup.dtype.itemsize  # as the trainer computes
    whole = replica.num_parameters * width
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    vocabulary = replica.base.get_output_embeddings().weight.size(0)
    step = STEP_TOKENS * (2 * inner // parallel + 4 * hidden) * width + STEP_SEQUENCES * vocabulary * 4
    token = kv_bytes_per_token(replica.base.config, width, parallel)
    peft = setup.peft
    is_merged = peft is not None and next(lora_refusals(peft), None) is not None
    return ServerMemory(
        weights=-(-whole // parallel),
        adapter=0 if peft is None or is_merged else _adapter_bytes(peft, replica, width),
        step=round(step + GRAPHS) if setup.on_gpu else step,
        token=round(cache_bytes_per_token) if token is None else token,
        merged=whole if is_merged else 0,
    )


def _adapter_bytes(peft: PeftConfig, replica: PlannedModel, width: int) -> int:
    """Return the bytes that vLLM reserves for an adapter, whose rank it rounds up."""
    rank = getattr(peft, "r", 1)
    return replica.adapter_bytes // 4 * width * lora_rank_for(rank) // rank
