"""`spin-trl report`: the report of a run as it stands."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import RunDirectoryError
from ..report.terminal import shown_path


def add(commands: Any) -> None:
    """Add the arguments."""
    parser = commands.add_parser("report", help="write report.html of a run, as it stands", allow_abbrev=False)
    parser.add_argument("run", help="run directory")
    parser.set_defaults(function=report, takes_settings=False)


def report(options: argparse.Namespace, overrides: list[str]) -> None:
    """Write the report."""
    from ..report.write import write_report
    from ..run.directory import RunDirectory

    try:
        print(shown_path(write_report(RunDirectory(options.run))))
    except PermissionError as error:
        raise RunDirectoryError(f"The report of {options.run} can't be written: {error}") from error
