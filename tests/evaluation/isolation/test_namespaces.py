"""Namespaces alone give another view of files, processes and the network."""

import os
from collections.abc import Callable
from typing import Any

from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.namespaces import WORK_FOLDER

Play = Callable[..., dict[int, Any]]


def test_a_process_sees_no_other_files_and_processes(harmless: Play) -> None:
    found = harmless(
        (Layer.NAMESPACES,),
        "import os, socket",
        "sorted(os.listdir('/'))",
        "os.getcwd()",
        "os.getpid()",
        "[name for _, name in socket.if_nameindex()]",
        "os.getuid()",
    )
    names = {member[1] for member in found[0]["value"][1]}
    assert names <= {
        WORK_FOLDER[1:],
        "lib",
        "lib64",
        "usr",
        "etc",
        *(part for path in python_folders() for part in path),
    }
    assert found[1]["value"] == ["str", WORK_FOLDER]
    assert found[2]["value"] == 2
    assert found[3]["value"] in (["list", []], ["list", [["str", "lo"]]])
    assert found[4]["value"] == os.getuid()


def python_folders() -> list[list[str]]:
    """Return the first parts of the paths that Python is in."""
    return [[os.path.realpath(path).split("/")[1]] for path in (os.__file__,)]


def test_only_the_work_folder_can_be_written_to(harmless: Play) -> None:
    found = harmless(
        (Layer.NAMESPACES,),
        "import os",
        "open('/new', 'w')",
        "open(os.__file__, 'a')",
        "open('new', 'w').write('12')",
    )
    assert [found[number].get("failed") for number in (0, 1)] == ["OSError", "OSError"]
    assert found[2]["value"] == 2


def test_the_work_folder_is_no_larger_than_a_file_may_be(harmless: Play) -> None:
    """With 16 MiB, one file of 12 fits, but no second one."""
    found = harmless((Layer.NAMESPACES,), "", *(f"open('{name}', 'wb').write(bytes(12 << 20))" for name in "ab"))
    assert found[0]["value"] == 12 << 20
    assert found[1]["failed"] == "OSError"
