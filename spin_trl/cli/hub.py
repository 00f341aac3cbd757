"""`spin-trl push`: push the parts of a run that the Hub lacks. `spin-trl card`: write the cards of its models and pairs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import HubError
from ..quiet import quiet
from ..report.terminal import printable, shown_path
from .commands import add_command, add_trust
from .session import quieten

_DESCRIPTION_OF_PUSH = """\
Push every accepted iteration to its own branch, and the best one to main. The token comes from `HF_TOKEN` or from your Hub
login. Options that are left out have the values in the run's settings.
"""


def add(commands: Any) -> None:
    """Add the commands."""
    what = "push a run to the Hub, except what is already there"
    push = add_command(commands, "push", push_run, help=what, description=_DESCRIPTION_OF_PUSH, takes_settings=False)
    push.add_argument("run", help="run directory")
    add_trust(push)
    push.add_argument("--hub_model_id", metavar="NAME", help="repository for the models")
    push.add_argument("--hub_private_repo", type=_as_truth, metavar="BOOL", help="whether repositories are private")
    push.add_argument(
        "--push_generations", type=_as_truth, metavar="BOOL", help="whether to push the pairs, too, as a dataset"
    )
    push.add_argument("--hub_dataset_id", metavar="NAME", help="repository for the pairs")
    push.add_argument("--hub_license", metavar="LICENCE", help="licence identifier on the Hub, such as apache-2.0")
    what = "write up-to-date cards for a run's models and pairs"
    card = add_command(commands, "card", write, help=what, takes_settings=False)
    card.add_argument("run", help="run directory")


def _as_truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def push_run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Push what is missing."""
    quieten()
    from ..hub.client import TALKATIVE, Hub
    from ..hub.publish import Publisher
    from ..play.open import reopen

    # The machine that pushes a run may have no GPU, and without one bfloat16 is refused. Nothing is computed here.
    run = reopen(options.run, ["--use_cpu", "true"], trust_run=options.trust_run)
    for name in ("hub_model_id", "hub_private_repo", "push_generations", "hub_dataset_id", "hub_license"):
        if (value := getattr(options, name)) is not None:
            setattr(run.args if hasattr(run.args, name) else run.play, name, value)
    hub = Hub(on_pause=lambda text: print(printable(text), file=sys.stderr))
    hub.check_access()
    pushed: list[str] = []

    def say(text: str) -> None:
        pushed.append(text)
        print(printable(text))

    try:
        with quiet(*TALKATIVE):
            Publisher(run, hub, say).push_missing()
    except HubError as error:
        raise HubError(f"{error} What was already pushed is on the Hub; run the same command to resume.") from error
    if not pushed:
        print(f"Everything in {printable(str(run.directory.path))} is already on the Hub.")


def write(options: argparse.Namespace, overrides: list[str]) -> None:
    """Write the cards, and print their paths."""
    quieten()
    from ..hub.cards import write_cards
    from ..run.directory import RunDirectory

    written = write_cards(RunDirectory(options.run))
    for path in written:
        print(shown_path(path))
    if not written:
        print(f"{shown_path(options.run)} has no model and no pairs yet.")
