"""`spin-trl report`: write the report of a run in its current state."""

from __future__ import annotations

import argparse
from typing import Any

from ..report.terminal import shown_path
from .commands import add_command


def add(commands: Any) -> None:
    """Add the command."""
    what = "write report.html for a run, finished or not"
    parser = add_command(commands, "report", report, help=what, takes_settings=False)
    parser.add_argument("run", help="run directory")
    parser.add_argument("--output", metavar="PATH", help="file or folder to write to instead of the run directory")


def report(options: argparse.Namespace, overrides: list[str]) -> None:
    """Write the report."""
    from ..report.write import write_report
    from ..run.directory import RunDirectory

    print(shown_path(write_report(RunDirectory(options.run), output=options.output)))
