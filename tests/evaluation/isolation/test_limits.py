"""Limits of resources apply, as seen by the process."""

from collections.abc import Callable
from typing import Any

from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.limits import Limits

Play = Callable[..., dict[int, Any]]

NAMES = ("CPU", "AS", "FSIZE", "NOFILE", "NPROC", "CORE")


def test_every_limit_is_set_and_can_not_be_raised(harmless: Play) -> None:
    found = harmless(
        (Layer.USER, Layer.LIMITS),
        "import resource",
        *(f"resource.getrlimit(resource.RLIMIT_{name})" for name in NAMES),
        "resource.setrlimit(resource.RLIMIT_CPU, (6, 6))",
        limits=Limits(cpu_seconds=4, memory=1 << 29, file_size=1 << 20, files=32),
    )
    values = [found[number]["value"][1] for number in range(len(NAMES))]
    assert values == [[4, 4], [536870912, 536870912], [1048576, 1048576], [32, 32], [0, 0], [0, 0]]
    assert found[len(NAMES)]["failed"] == "ValueError"


def test_what_is_beyond_a_limit_fails(harmless: Play) -> None:
    found = harmless(
        (Layer.USER, Layer.LIMITS),
        "import mmap, os",
        "mmap.mmap(-1, 1 << 29)",
        "open('large', 'wb').truncate((1 << 20) + 1)",
        "[open(os.devnull) for _ in range(40)]",
        "os.fork()",
        limits=Limits(memory=1 << 29, file_size=1 << 20, files=32),
    )
    assert [found[number]["failed"] for number in range(4)] == ["OSError", "OSError", "OSError", "BlockingIOError"]
