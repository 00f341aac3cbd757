"""With Landlock alone, files outside can't be opened, and nothing can be executed."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spin_trl.evaluation.isolation import landlock
from spin_trl.evaluation.isolation.inside import Layer

Play = Callable[..., dict[int, Any]]


def test_files_outside_are_out_of_reach(harmless: Play, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("as before", encoding="utf-8")
    found = harmless(
        (Layer.LANDLOCK,),
        "import os, decimal",
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w')",
        f"os.listdir({str(tmp_path)!r})",
        "open('own', 'w').write('12')",
        "open(os.__file__).read(1)",
    )
    assert [found[number]["failed"] for number in range(3)] == ["PermissionError"] * 3
    assert found[3]["value"] == 2
    assert found[4]["value"] == ["str", Path(landlock.os.__file__).read_text(encoding="utf-8")[0]]


def test_nothing_is_executed(harmless: Play) -> None:
    found = harmless((Layer.LANDLOCK,), "import os, sys", "os.execv(sys.executable, ['python'])")
    assert found[0]["failed"] == "PermissionError"


def test_no_tcp_port_is_reached(harmless: Play) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if _version() < landlock.COVERS_TCP:
            pytest.skip(f"needs Landlock {landlock.COVERS_TCP}; this is {_version()}")
        port = server.getsockname()[1]
        found = harmless((Layer.LANDLOCK,), "import socket", f"socket.create_connection(('127.0.0.1', {port}), 2)")
    assert found[0]["failed"] == "PermissionError"


def test_the_newest_rights_of_a_version_are_asked_for() -> None:
    """The numbers are those of `linux/landlock.h`: 13 rights on files in version 1, 14 in 2, 15 in 3 and 4, 16 from 5 on."""
    newest = [landlock._newest(landlock._ALL_OF_FILES, version) for version in range(1, 8)]
    assert newest == [0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF]
    assert [landlock._newest(landlock._ALL_OF_TCP, version) for version in (3, 4)] == [0, 3]


def _version() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0
