"""Self-play fine-tuning for TRL: SPIN and its successors, from one dataset of human answers and no preference labels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collator import DataCollatorForSelfPlay
    from .config import SPINConfig
    from .loop_config import SelfPlayConfig, StartConfig
    from .play.loop import SelfPlay
    from .trainer import SPINTrainer

__version__ = "0.1.0"

_MODULES = {
    "DataCollatorForSelfPlay": ".collator",
    "SPINConfig": ".config",
    "SPINTrainer": ".trainer",
    "SelfPlay": ".play.loop",
    "SelfPlayConfig": ".loop_config",
    "StartConfig": ".loop_config",
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
