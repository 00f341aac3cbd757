"""Settings as YAML can hold them: what differs from the defaults, without secrets."""

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
    """The settings of dataclasses that are not at their defaults, as YAML can hold them.

    Defaults are those of an instance made without arguments, so that values that a dataclass derives from others count
    as what they become.
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
    # Without `use_cpu`, TRL's default of bfloat16 is refused on a machine that has no GPU.
    with accelerates_state_kept():
        default = type(config)(use_cpu=True)
    default.use_cpu = False
    return default


@contextlib.contextmanager
def accelerates_state_kept() -> Iterator[None]:
    """Restore accelerate's state of this process afterwards.

    TrainingArguments set the device of the whole process when they are made: with `use_cpu`, a run on a GPU would go to the
    CPU. Under a launcher the process group is there already, made for the run's own arguments, and is not touched.
    """
    with contextlib.ExitStack() as afterwards:
        for state in (PartialState, AcceleratorState):
            afterwards.callback(state._shared_state.update, dict(state._shared_state))
            afterwards.callback(state._shared_state.clear)  # before: what is pushed last is called first
        yield


def plain(value: Any) -> Any:
    """A value as YAML can hold it."""
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
