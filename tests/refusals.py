"""The output of a command that refuses its input."""

from spin_trl.cli import main


def refusal(capsys, *arguments, code=2):
    """Return what the command prints on stderr when it refuses: one message, no traceback."""
    assert main(list(arguments)) == code
    message = capsys.readouterr().err
    assert message.startswith("spin-trl: ")
    assert "Traceback" not in message
    return message
