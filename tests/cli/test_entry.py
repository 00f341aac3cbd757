"""The command can be interrupted at any time, even while it starts, by Ctrl-C, SIGTERM or SIGHUP."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import spin_trl
from messages import names

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A library that is slow to import, and turns anything raised meanwhile into its own error.
SLOW_LIBRARY = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:
    raise ImportError("yaml is broken") from None
"""


@pytest.mark.parametrize("signum", ALL)
def test_an_interrupt_during_imports_is_no_traceback(signum: signal.Signals, tmp_path: Path) -> None:
    """The command prints a single line and exits with 130, whatever a library turns the interrupt into."""
    (tmp_path / "yaml.py").write_text(SLOW_LIBRARY, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from spin_trl.cli import main; sys.exit(main(['recipes']))"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(spin_trl.__file__).parents[1]}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        # A shell ignores SIGINT in background jobs, and these tests may run in one.
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in ALL],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert names(errors, "Interrupted")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("closed", [(1,), (0, 2), (0, 1, 2)], ids=str)
def test_a_process_without_standard_streams_works(closed: tuple[int, ...], tmp_path: Path) -> None:
    """This is the case in a daemon. No file may get the descriptor of a stream, since libraries print to it."""
    script = (
        "import os, sys; from spin_trl.cli import main; code = main(['recipes'])\n"
        f"open({str(tmp_path / 'file')!r}, 'w').write('mine'); os.write(1, b'printed')\n"
        f"open({str(tmp_path / 'code')!r}, 'w').write(str(code))"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(spin_trl.__file__).parents[1])},
        preexec_fn=lambda: [os.close(one) for one in closed],
        check=True,
        timeout=60,
    )
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
