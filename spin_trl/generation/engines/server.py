"""The engine that generates with servers which exist already, once it is known which weights they have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..completions.client import CompletionsClient
from ..engine import FinishedBatches, MicroBatch, Sampling


@dataclass
class ServerEngine:
    """Generates with servers that exist already; what they are asked for and return are token ids.

    As with any such server, the same request can get another response, so what is stored is final.

    Args:
        client: client of the servers whose weights were compared.
        version: version of the servers' software.
        served: result of the comparison of their weights, for the manifest of what they generate.
    """

    client: CompletionsClient
    version: str
    served: dict[str, Any]
    name: str = "server"
    repeats: bool = False

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample the responses to each prompt with one request, in any order (see [`Engine`])."""
        return self.client.generate(batches, sampling)
