"""Fixtures that play the command line in this process."""

import pytest

from cases.playing import Command, Said
from spin_trl.cli import main
from spin_trl.cli.session import session_of


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Command:
    """Run `spin-trl` with these arguments. No case may end in a traceback."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        caplog.clear()
        code = main(list(arguments))
        captured = capsys.readouterr()
        text = captured.out + captured.err + caplog.text
        assert "Traceback" not in text
        return Said(code, text)

    return run


@pytest.fixture
def prepare(caplog: pytest.LogCaptureFixture) -> Command:
    """Do what `spin-trl run` does before its first phase: read the data of a recipe into the run directory."""

    def prepare(*arguments: str) -> Said:
        caplog.clear()
        session = session_of(arguments[0], list(arguments[1:]))
        session._claim_directory()
        session._set_up()
        return Said(0, caplog.text)

    return prepare
