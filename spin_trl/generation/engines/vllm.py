"""The engine that generates with vLLM servers of the run's own, which serve the model while it is needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..completions.client import CompletionsClient
from ..engine import FinishedBatches, MicroBatch, Sampling


@dataclass
class VllmEngine:
    """Generates with running servers; what they are asked for and return are token ids.

    The same request can get another response: vLLM's numbers depend on which requests it works on at the same time. So what
    is stored is final.

    Args:
        client: client of the servers.
        version: version of vLLM.
    """

    client: CompletionsClient
    version: str
    name: str = "vllm"
    repeats: bool = False

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample the responses to each prompt with one request, in any order (see [`Engine`])."""
        return self.client.generate(batches, sampling)
