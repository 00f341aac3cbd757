"""How a server was started: the arguments after vLLM's command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """The arguments of `vllm serve`.

    Attributes:
        arguments: all of them.
    """

    arguments: list[str]

    @property
    def model(self) -> Path:
        """The folder of the weights."""
        return Path(self.arguments[1])

    @property
    def rank(self) -> int | None:
        """The maximum rank of adapters; None if it loads none."""
        found = self.option("max-lora-rank")
        return int(found) if found is not None else None

    def option(self, name: str) -> str | None:
        """Return the value of an option; None if it was not given."""
        return self.arguments[self.arguments.index(f"--{name}") + 1] if f"--{name}" in self.arguments else None

    def at(self, port: int) -> list[str]:
        """Return the arguments with another port."""
        changed = list(self.arguments)
        changed[changed.index("--port") + 1] = str(port)
        return changed
