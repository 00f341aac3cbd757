"""The user that code runs as."""

import os
from collections.abc import Callable
from typing import Any

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


def test_two_rooms_are_two_users(harmless: Play) -> None:
    """So the processes of one don't count against the limit of the other, and can't signal it."""
    first, second = (
        harmless((Layer.NAMESPACES, Layer.USER), "import os", "os.getuid()")[0]["value"] for _ in range(2)
    )
    assert first != second or os.getuid() != 0
