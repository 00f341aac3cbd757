"""What the command says when it refuses."""

from spin_trl.cli import main


def refusal(capsys, *arguments, code=2):
    """What the command says on stderr when it refuses; one message, no traceback."""
    assert main(list(arguments)) == code
    message = capsys.readouterr().err
    assert message.startswith("spin-trl: ")
    assert "Traceback" not in message
    return message
