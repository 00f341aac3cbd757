"""Self-play fine-tuning for TRL: SPIN and its successors, from one dataset of human answers and no preference labels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config.iteration import SPINConfig
    from .config.loop import SelfPlayConfig
    from .config.start import StartConfig
    from .play.loop import SelfPlay
    from .training.collator import DataCollatorForSelfPlay
    from .training.trainer import SPINTrainer

__version__ = "0.1.0"

_MODULES = {
    "DataCollatorForSelfPlay": ".training.collator",
    "SPINConfig": ".config.iteration",
    "SPINTrainer": ".training.trainer",
    "SelfPlay": ".play.loop",
    "SelfPlayConfig": ".config.loop",
    "StartConfig": ".config.start",
}

__all__ = [
    "DataCollatorForSelfPlay",
    "SPINConfig",
    "SPINTrainer",
    "SelfPlay",
    "SelfPlayConfig",
    "StartConfig",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the stack behind it takes seconds to load."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
