"""The engine that generates with vLLM servers of the run's own, which serve the model while it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..completions.client import CompletionsClient
from ..completions.failures import CompletionsError
from ..engine import FinishedBatches, MicroBatch, Sampling


@dataclass
class VllmEngine:
    """Generates with running servers; what they are asked for and return are token ids.

    The same request can get another response: vLLM's numbers depend on which requests it works on at the same time. So what
    is stored is final.

    Args:
        client: client of the servers.
        version: version of vLLM.
        why_ended: function that returns why servers have ended by themselves, a text for each of them.
    """

    client: CompletionsClient
    version: str
    why_ended: Callable[[], Sequence[str]] = list
    name: str = "vllm"
    repeats: bool = False

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Sample the responses to each prompt with one request, in any order (see [`Engine`]).

        Raises:
            CompletionsError: if a request fails for good; the message says why servers have ended, if any have.
        """
        try:
            yield from self.client.generate(batches, sampling)
        except CompletionsError as error:
            error.args = ("\n".join([str(error), *self.why_ended()]),)
            raise
