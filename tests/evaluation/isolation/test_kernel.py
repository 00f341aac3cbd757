"""System calls that fail raise the system's error."""

import errno
from pathlib import Path

import pytest

from messages import refused
from spin_trl.evaluation.isolation import kernel


def test_a_call_that_fails_is_an_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError) as found:
        kernel.mount(None, str(tmp_path / "missing"), None, kernel.MS_PRIVATE)
    assert found.value.errno in (errno.ENOENT, errno.EPERM)
    with pytest.raises(OSError) as found:
        kernel.prctl(-1)
    assert found.value.errno == errno.EINVAL
    with pytest.raises(OSError) as found:
        kernel.system_call(-1, what="nothing")
    assert found.value.errno == errno.ENOSYS


def test_a_processor_without_a_number_is_an_error() -> None:
    with refused(OSError, "pivot_root"):
        kernel.by_processor({"z80": 1}, "pivot_root")
