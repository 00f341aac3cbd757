"""A child of this process ends like a separate command, and its output is read."""

import os
import signal
import time

import pytest

from faults.acts import Interrupt, in_a_child
from faults.outcome import manners, message


def test_a_child_ends_with_what_its_function_returns() -> None:
    def play() -> int:
        print("spin-trl: The disk is full.")
        return 1

    ended = in_a_child(play)
    assert (ended.code, ended.output, ended.hung) == (1, "spin-trl: The disk is full.\n", False)
    assert manners(ended) is None
    assert message(ended) == "spin-trl: The disk is full."


def test_an_exception_is_a_traceback_and_a_fault() -> None:
    def play() -> int:
        return {}["missing"]

    ended = in_a_child(play)
    assert ended.code == 1
    assert manners(ended) == "KeyError: 'missing'"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_comes_from_outside(number: int) -> None:
    def play() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)
        return 0

    ended = in_a_child(play, Interrupt(number, 0.2))
    assert ended.code == -number
    assert manners(ended) is not None
    assert manners(ended, (-number,)) is None


def test_an_error_without_a_message_is_a_fault() -> None:
    assert "exit code 2" in str(manners(in_a_child(lambda: 2)))


def test_this_process_stays_what_it_was() -> None:
    before = os.getcwd()
    in_a_child(lambda: os.chdir("/") or 0)
    assert os.getcwd() == before
