"""Find out which layers of isolation this machine has, by harmless attempts at what each should prevent."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import IsolationError, RecipeError
from . import landlock
from .inside import LOOK_AROUND, Layer
from .room import Room

logger = logging.getLogger(__name__)

Seen = Mapping[str, Any]
"""Result of [`look_around.look_around`]."""

_LAYERS_IN_WORDS: Mapping[str, str] = {
    Layer.NAMESPACES: "namespaces (user, PID, mount, network)",
    Layer.LANDLOCK: "Landlock",
    Layer.USER: "an unprivileged user",
    Layer.LIMITS: "limits of memory, CPU time, files and processes",
    Layer.ENVIRONMENT: "an empty environment",
}

_HOLDS: Mapping[str, Callable[[Seen], bool]] = {
    Layer.NAMESPACES: lambda found: (
        not found["reads_outside"] and not set(found["network"]) - {"lo"} and found["process"] < _FEW
    ),
    Layer.LANDLOCK: lambda found: not found["reads_outside"] and not found["writes_outside"],
    Layer.USER: lambda found: 0 not in found["user"],
    Layer.LIMITS: lambda found: not (found["forks"] or found["allocates"] or found["enlarges"]),
    Layer.ENVIRONMENT: lambda found: found["variables"] == 0,
}
"""Whether a layer holds, from what was possible with it."""

_FEW = 10
"""Process ids in a new PID namespace are below this."""


@dataclass(frozen=True)
class Isolation:
    """The layers that this machine has.

    Attributes:
        layers: names of the layers that hold, in the order of [`inside.Layer`].
        missing: reasons why the others can't be had, by layer.
        weakness: what Landlock does not cover here, if there are no namespaces; empty if it covers everything needed.
    """

    layers: tuple[str, ...]
    missing: Mapping[str, str]
    weakness: str = ""

    @property
    def lacks(self) -> list[str]:
        """What is needed to run generated code and can't be had: namespaces or all of Landlock, and the limits."""
        found = []
        if Layer.NAMESPACES not in self.layers and (Layer.LANDLOCK not in self.layers or self.weakness):
            instead = f"{_LAYERS_IN_WORDS[Layer.LANDLOCK]} ({self.missing.get(Layer.LANDLOCK) or self.weakness})"
            found.append(f"{_LAYERS_IN_WORDS[Layer.NAMESPACES]} ({self.missing[Layer.NAMESPACES]}) or {instead}")
        if Layer.LIMITS not in self.layers:
            reason = self.missing[Layer.LIMITS]
            if Layer.USER in self.missing:  # root is not bound by the limit of processes
                reason += f"; {_LAYERS_IN_WORDS[Layer.USER]}: {self.missing[Layer.USER]}"
            found.append(f"{_LAYERS_IN_WORDS[Layer.LIMITS]} ({reason})")
        return found

    def room(self, *, allow_unisolated: bool = False) -> Room:
        """Return a room with the layers that hold.

        Args:
            allow_unisolated: whether a room without the layers that are needed is allowed, too.

        Raises:
            RecipeError: if needed layers are missing and that is not allowed.
        """
        if self.lacks and not allow_unisolated:
            raise RecipeError(
                f"Generated code can't be isolated on this machine, so it is not run. Missing: {'; '.join(self.lacks)}. Run "
                "on a machine that has them, choose another `scorer`, or, in a container or virtual machine that you can "
                "afford to lose, set `allow_unisolated_code: true`."
            )
        if self.lacks:
            logger.warning(
                "Generated code runs without isolation from this machine. Missing: %s.", "; ".join(self.lacks)
            )
        return Room(self.layers)


def in_words(layers: Collection[str]) -> str:
    """Return the layers that generated code ran behind in words, as the report shows them."""
    names = ", ".join(_LAYERS_IN_WORDS.get(layer, layer) for layer in layers)
    return (
        f"isolated by {names}" if {Layer.NAMESPACES, Layer.LANDLOCK} & set(layers) else f"not isolated, only {names}"
    )


@functools.cache
def probe_layers() -> Isolation:
    """Return the layers that this machine has. It takes three short processes, once."""
    with tempfile.NamedTemporaryFile(prefix="spin-trl-outside-") as outside:
        found, missing = dict[str, Seen](), dict[str, str]()

        def attempt(layers: list[str]) -> Seen:
            lines = Room(layers).play({LOOK_AROUND: outside.name}).lines
            if not lines:
                raise IsolationError(layers[-1], "a harmless program did not work with it")
            if not (lines[0]["imports"] and lines[0]["writes_inside"]):
                reason = "with it, Python's standard library or the work folder is out of reach"
                raise IsolationError(layers[-1], reason)
            return dict(lines[0])

        for alone in (Layer.NAMESPACES, Layer.LANDLOCK):
            try:
                found[alone] = attempt([alone])
            except IsolationError as error:
                missing[alone] = error.reason
        walls = [layer for layer in (Layer.NAMESPACES, Layer.LANDLOCK) if layer not in missing]
        for more in ([Layer.USER, Layer.LIMITS], [Layer.USER], [Layer.LIMITS]):  # a machine may have only one of them
            try:
                together = attempt([*walls, *more])
            except IsolationError as error:
                missing.setdefault(error.layer if error.layer in more else more[-1], error.reason)
                continue
            for layer in more:
                missing.pop(layer, None)
            found |= dict.fromkeys((*more, Layer.ENVIRONMENT), together)
            break
    for layer in tuple(Layer):
        if layer not in missing and not (layer in found and _HOLDS[layer](found[layer])):
            missing[layer] = "what it should prevent was possible"
    held = tuple(layer for layer in tuple(Layer) if layer not in missing)
    return Isolation(held, missing, _weakness(held))


def _weakness(held: Iterable[str]) -> str:
    """Return what this kernel's Landlock leaves open; empty if nothing that matters."""
    try:
        version = landlock.version()
    except OSError:
        return ""
    is_another_user = os.getuid() == 0 and Layer.USER in held
    if version < landlock.COVERS_TCP:
        return f"its version {version} does not cover the network: Linux 6.7 or later is needed"
    if version < landlock.COVERS_SIGNALS and not is_another_user:
        return f"its version {version} does not cover signals to your other processes: Linux 6.12 or later is needed"
    return ""
