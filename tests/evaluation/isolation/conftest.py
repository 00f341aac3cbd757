"""Rooms for the tests of isolation. Tests that need a layer this machine lacks are skipped, with the layer's name."""

from collections.abc import Callable
from typing import Any

import pytest

from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.limits import Limits
from spin_trl.evaluation.isolation.probe import probe_layers
from spin_trl.evaluation.isolation.room import Room

Play = Callable[..., dict[int, Any]]


def room_with(*layers: str, limits: Limits | None = None) -> Room:
    """Return a room with some layers, if this machine has them."""
    for layer in layers:
        if layer in probe_layers().missing:
            pytest.skip(f"needs the isolation layer {layer}: {probe_layers().missing[layer]}")
    return Room(layers, limits or Limits())


def steps_of(room: Room, code: str, *steps: str) -> dict[int, Any]:
    """Return the outcomes of expressions after some code, by their numbers; -1 is the code itself, if it failed."""
    task = {"before": "", "code": code, "steps": [("value", step) for step in steps]}
    return {line["step"]: line for line in room.play(task).lines}


@pytest.fixture
def hostile() -> Play:
    """Return a function that runs hostile code behind all layers, never without namespaces, an unprivileged user and
    limits.
    """
    room_with(Layer.NAMESPACES, Layer.USER, Layer.LIMITS)

    def play(code: str, *steps: str, limits: Limits | None = None) -> dict[int, Any]:
        return steps_of(Room(probe_layers().layers, limits or Limits()), code, *steps)

    return play


@pytest.fixture
def harmless() -> Play:
    """Return a function that runs harmless code behind the named layers."""

    def play(layers: tuple[str, ...], code: str, *steps: str, limits: Limits | None = None) -> dict[int, Any]:
        return steps_of(room_with(*layers, limits=limits), code, *steps)

    return play
