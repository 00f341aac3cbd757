"""Settings in a form that YAML can hold: those that differ from the defaults, without secrets."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments

from . import credentials


def differences_from_defaults(*configs: Any) -> dict[str, Any]:
    """Return the settings of dataclasses that differ from their defaults, in a form that YAML can hold.

    The defaults are those of an instance created without arguments, so values that a dataclass derives from others are
    compared after they have been derived.
    """
    found: dict[str, Any] = {}
    for config in configs:
        default = _default(config)
        for field in dataclasses.fields(config):
            if field.init and hasattr(config, field.name) and not credentials.is_name(field.name):
                value, usual = plain(getattr(config, field.name)), plain(getattr(default, field.name))
                if value != usual:
                    found[field.name] = value
    return found


def _default(config: Any) -> Any:
    if not isinstance(config, TrainingArguments):
        return type(config)()
    # Without `use_cpu`, TRL's default of bfloat16 is refused on a machine without a GPU.
    with accelerates_state_kept():
        default = type(config)(use_cpu=True)
    default.use_cpu = False
    return default


@contextlib.contextmanager
def accelerates_state_kept() -> Iterator[None]:
    """Restore accelerate's state of this process on exit.

    Creating TrainingArguments sets the device of the whole process: with `use_cpu`, a run on a GPU would move to the CPU.
    Under a launcher, the process group already exists, created for the run's own arguments, and is not touched.
    """
    with contextlib.ExitStack() as afterwards:
        for state in (PartialState, AcceleratorState):
            afterwards.callback(state._shared_state.update, dict(state._shared_state))
            afterwards.callback(state._shared_state.clear)  # runs first: callbacks are called in reverse order
        yield


def plain(value: Any) -> Any:
    """Convert a value to a form that YAML can hold."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items() if not credentials.is_name(str(key))}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set):
        return sorted(plain(part) for part in value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
