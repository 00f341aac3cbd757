"""Code runs as an unprivileged user."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from spin_trl.evaluation.isolation.inside import Layer

Play = Callable[..., dict[int, Any]]

STATUS = """
import os
def status(name):
    with open("/proc/self/status") as file:
        return [line.split()[1] for line in file if line.startswith(name + ":")][0]
"""


def test_it_is_never_root_and_has_no_capabilities(harmless: Play) -> None:
    found = harmless((Layer.USER,), STATUS, "os.getresuid()", "os.getgroups()", *(f"status({n!r})" for n in NAMES))
    users = found[0]["value"][1]
    assert len(set(users)) == 1
    assert users[0] not in (0, os.getuid()) if os.getuid() == 0 else users[0] == os.getuid()
    if os.getuid() == 0:
        assert found[1]["value"] == ["list", []]
    values = [found[number]["value"][1] for number in range(2, 2 + len(NAMES))]
    assert [int(value, 16) for value in values] == [0, 0, 0, 0, 1]


NAMES = ("CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs")


def test_keys_of_the_session_stay_outside(harmless: Play) -> None:
    """The session's keyring is a new one, with the name of anonymous keyrings."""
    code = """
import ctypes, platform
number = {"x86_64": 250}.get(platform.machine(), 219)
buffer = ctypes.create_string_buffer(200)
library = ctypes.CDLL(None, use_errno=True)
def describe():
    describes, session = 6, -3
    size = library.syscall(ctypes.c_long(number), describes, session, buffer, 200)
    return buffer.value.decode() if size > 0 else ctypes.get_errno()
"""
    found = harmless((Layer.NAMESPACES, Layer.USER), code, "describe()", "__import__('os').getuid()")
    if not isinstance(found[0]["value"], list):
        pytest.skip(f"needs keyrings: error {found[0]['value']}")
    kind, user, *_, name = found[0]["value"][1].split(";")
    assert (kind, int(user), name) == ("keyring", found[1]["value"], "_ses")


def test_two_rooms_are_two_users(harmless: Play) -> None:
    """So the processes of one don't count against the limit of the other, and can't signal it."""
    first, second = (
        harmless((Layer.NAMESPACES, Layer.USER), "import os", "os.getuid()")[0]["value"] for _ in range(2)
    )
    assert first != second or os.getuid() != 0
