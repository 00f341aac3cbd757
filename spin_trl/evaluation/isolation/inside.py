"""The way into the room: a new interpreter puts on the layers, then plays a program.

It reads its task from standard input, as JSON, and writes JSON lines to standard output. The first line, which is written
before any generated code runs, says which layers hold, or why one can't be had.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NoReturn

from . import landlock, namespaces, privileges
from .limits import Limits
from .look_around import look_around
from .program import run_program


class Layer(StrEnum):
    """The layers of isolation, in the order in which the documentation lists them."""

    NAMESPACES = "namespaces"
    """Namespaces of users, processes, mounts and the network ([`namespaces`])."""
    LANDLOCK = "landlock"
    """Landlock's rules on files, the network and signals ([`landlock`])."""
    USER = "user"
    """A user without privileges ([`privileges`])."""
    LIMITS = "limits"
    """Limits of resources ([`limits`])."""
    ENVIRONMENT = "environment"
    """An empty environment."""


LOOK_AROUND = "look_around"
"""Key of a task without generated code: a file outside of the room, to report what is possible inside."""

_GRACE = 5
"""Seconds after which waiting processes end by themselves, should the process outside hang."""


class LayerError(Exception):
    """A layer can't be put on this process.

    Args:
        layer: its name.
        reason: why.
    """

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


def play_task() -> NoReturn:
    """Play the task of standard input. The process ends here, without what an interpreter does at its end."""
    task = json.load(sys.stdin)
    results = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)

    def send(line: Mapping[str, Any]) -> None:
        text = (json.dumps(line) + "\n").encode()
        while text:
            text = text[os.write(results, text) :]

    try:
        held = _put_on(task)
    except LayerError as error:
        send({"layer": error.layer, "error": str(error)})
        os._exit(1)
    send({"layers": held})
    os.dup2(nothing, 2)
    if LOOK_AROUND in task:
        send(look_around(task[LOOK_AROUND], Limits(**task["limits"])))
    else:
        run_program(task["before"], task["code"], task["steps"], send)
    os._exit(0)


def _put_on(task: Mapping[str, Any]) -> list[str]:
    """Put the layers that a task asks for on this process, and return all that hold.

    With namespaces, this returns in another process: the first one of a PID namespace must not run generated code, since the
    kernel ends all others of the namespace when it ends.
    """
    asked, limits = set(task["layers"]), Limits(**task["limits"])
    number, is_root = os.getpid(), os.getuid() == 0
    os.environ.clear()  # Python may have added its own locale
    with _layer(Layer.LIMITS):
        privileges.die_with_parent()
    if os.getppid() != task["parent"]:  # it ended before this one could follow it
        os._exit(1)
    work = task["folder"]
    if Layer.NAMESPACES in asked:
        with _layer(Layer.NAMESPACES):
            namespaces.enter(is_root=is_root)
            _go_on_in_child(limits)
            privileges.die_with_parent()
            privileges.forbid_tracing()
            namespaces.change_root(work, task["readable"], limits.file_size)
            work = namespaces.WORK_FOLDER
            _go_on_in_child(limits)
    os.chdir(work)
    if Layer.LIMITS in asked:
        with _layer(Layer.LIMITS):
            limits.apply()
    if Layer.USER in asked:
        with _layer(Layer.USER):
            if is_root:
                privileges.become_nobody(number, work)
            privileges.leave_keyring()
            privileges.give_up_capabilities()
            privileges.die_with_parent()
    if Layer.LANDLOCK in asked:
        with _layer(Layer.LANDLOCK):
            landlock.restrict(task["readable"], ["."])
    return [layer for layer in Layer if layer in {*asked, Layer.ENVIRONMENT}]


@contextlib.contextmanager
def _layer(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise LayerError(name, str(error)) from error


def _go_on_in_child(limits: Limits) -> None:
    """Fork; return in the child alone. The parent waits for it, then ends."""
    child = os.fork()
    if child:
        os.closerange(3, 256)  # results end when the child ends
        # The first process of a PID namespace only gets signals that it handles.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(int(limits.seconds) + _GRACE)
        os.waitpid(child, 0)
        os._exit(0)
