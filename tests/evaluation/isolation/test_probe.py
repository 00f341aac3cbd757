"""The layers of a machine are determined, and so are the consequences."""

import logging
import os

import pytest

from messages import logged, refused
from spin_trl.errors import IsolationError, RecipeError
from spin_trl.evaluation.isolation import probe as module
from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.probe import Isolation, in_words, probe_layers
from spin_trl.evaluation.isolation.room import Played, Room


def isolation(*missing: str, weakness: str = "") -> Isolation:
    held = tuple(layer for layer in tuple(Layer) if layer not in missing)
    return Isolation(held, {layer: f"no-{layer}-here" for layer in missing}, weakness)


def test_every_layer_holds_or_has_a_reason() -> None:
    found = probe_layers()
    assert set(found.layers) | set(found.missing) == set(Layer)
    assert not set(found.layers) & set(found.missing)
    assert all(found.missing.values())
    assert Layer.ENVIRONMENT in found.layers


@pytest.mark.parametrize(
    "missing", [(), (Layer.NAMESPACES,), (Layer.LANDLOCK,), (Layer.USER,), (Layer.NAMESPACES, Layer.USER)], ids=str
)
def test_one_wall_and_the_limits_are_enough(missing: tuple[str, ...]) -> None:
    found = isolation(*missing)
    assert found.lacks == []
    assert found.room() == Room(found.layers)


@pytest.mark.parametrize(
    "missing", [(Layer.NAMESPACES, Layer.LANDLOCK), (Layer.LIMITS,), (Layer.LIMITS, Layer.USER)], ids=str
)
def test_what_is_missing_is_named(missing: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    found = isolation(*missing)
    with refused(RecipeError, *(f"no-{layer}-here" for layer in missing), "`allow_unisolated_code: true`", "`scorer`"):
        found.room()
    with caplog.at_level(logging.WARNING):
        assert found.room(allow_unisolated=True) == Room(found.layers)
    logged(caplog, *(f"no-{layer}-here" for layer in missing))


def test_a_weak_landlock_needs_namespaces() -> None:
    assert isolation(weakness="weak-landlock").lacks == []
    with refused(RecipeError, "no-namespaces-here", "weak-landlock"):
        isolation(Layer.NAMESPACES, weakness="weak-landlock").room()


def test_landlock_is_as_strong_as_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 4 (Linux 6.7) covers TCP, version 6 (Linux 6.12) signals; another user can't send any."""

    def weakness(version: int, user: int) -> bool:
        monkeypatch.setattr(module.landlock, "version", lambda: version)
        monkeypatch.setattr(os, "getuid", lambda: user)
        return bool(module._weakness((Layer.LANDLOCK, Layer.USER, Layer.LIMITS)))

    assert [weakness(version, 1000) for version in (3, 4, 5, 6, 7)] == [True, True, True, False, False]
    assert [weakness(version, 0) for version in (3, 4, 5, 6)] == [True, False, False, False]


def test_a_layer_that_does_not_prevent_what_it_should_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may accept a layer and not enforce it."""
    everything = {
        "reads_outside": True, "writes_outside": True, "writes_inside": True, "imports": True, "network": ["eth0"],
        "process": 4321, "user": [0, 0, 0], "forks": True, "allocates": True, "enlarges": True, "variables": 3,
    }  # fmt: skip
    monkeypatch.setattr(Room, "play", lambda self, task: Played([everything], list(self.layers)))
    found = probe_layers.__wrapped__()
    assert found.layers == ()
    assert set(found.missing) == set(Layer)


def test_a_machine_without_any_layer_has_a_reason_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(self: Room, task: object) -> Played:
        raise IsolationError(self.layers[0], f"no-{self.layers[0]}-here")

    monkeypatch.setattr(Room, "play", play)
    found = probe_layers.__wrapped__()
    assert found.missing[Layer.NAMESPACES] == "no-namespaces-here"
    assert found.missing[Layer.LANDLOCK] == "no-landlock-here"
    with refused(RecipeError, "no-namespaces-here", "no-landlock-here"):
        found.room()


def test_the_report_names_the_layers() -> None:
    assert all(word in in_words(tuple(Layer)) for word in ("namespaces", "Landlock", "limits", "environment"))
    assert in_words([Layer.LANDLOCK]).split()[0] == "isolated"
    assert in_words([Layer.LIMITS]).split()[0] == "not"
