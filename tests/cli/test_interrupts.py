"""Signals end a command as Ctrl-C does, and ignored signals stay ignored."""

import os
import signal
import sys
import time

import pytest

from spin_trl.cli.interrupts import interruptible

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("signum", ALL)
def test_a_signal_interrupts_a_command_and_is_as_before_afterwards(signum: signal.Signals) -> None:
    before = signal.signal(signum, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), signum)
        assert signal.getsignal(signum) is signal.SIG_DFL
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_to_be_ignored_is_ignored(signum: signal.Signals) -> None:
    """These are SIGHUP under `nohup` and SIGINT in a shell's background job."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signum)
            assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)


def test_an_interrupt_that_python_ignores_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Python prints and ignores an exception in a finaliser, so the command would run on for hours."""

    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    @interruptible()
    def work() -> None:
        interrupted = Interrupted()
        del interrupted
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err == ""


def test_other_exceptions_that_python_ignores_are_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: reported.append(ignored.exc_value))

    class Failing:
        def __del__(self) -> None:
            raise ValueError(17)

    with interruptible():
        failing = Failing()
        del failing
    assert [str(error) for error in reported] == ["17"]
