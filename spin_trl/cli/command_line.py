"""The `spin-trl` command: a whole run, or one of its phases. No traceback for a user's mistake.

Exit codes: 0 done, 2 bad input, 1 a failure, 130 an interrupt. `failures` says which error ends with which.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Sequence

from ..config.credentials import refuse_in_arguments
from ..report.terminal import accept_every_character, printable, show_log_records_plainly
from . import benchmarks, compare, completion, hub, init, plan, preview, recipes, report, run, settings
from .commands import RECIPES, CommandParser
from .failures import fail, flushed, note_run_directory
from .versions import ShowVersions

_COMMANDS = (init, preview, run, plan, compare, benchmarks, report, hub, recipes, settings, completion)


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    if arguments is None:
        _restart_in_utf8()
    accept_every_character()
    show_log_records_plainly()
    parser = command_parser()
    try:
        options, overrides = parser.parse_known_args(
            arguments
        )  # which may print the help, to whoever has gone by then
        refuse_in_arguments(overrides)
        if overrides and not options.takes_settings:
            parser.error(printable(f"unrecognized arguments: {' '.join(overrides)}"))
        note_run_directory(getattr(options, "run", None) or getattr(options, "recipe", None))
        options.function(options, overrides)
        return flushed(0) if arguments is None else 0
    except SystemExit:  # argparse's
        raise
    except BaseException as error:  # whatever a library raises; an interrupt and a panic of Rust's are no `Exception`
        return fail(error)


def _restart_in_utf8() -> None:
    """Run this command again, in Python's UTF-8 mode, where file names are ASCII: `LC_ALL=C` with `PYTHONUTF8=0`.

    A recipe couldn't name a file there, and neither could the processes that a command starts. Other encodings know the
    names of the files on their disks. What is printed stays in the terminal's encoding.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name != "ascii" or "utf8" in sys._xoptions:
        return
    # An empty one counts as none.
    os.environ["PYTHONIOENCODING"] = os.environ.get("PYTHONIOENCODING") or f"{sys.stdout.encoding}:replace"
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def command_parser() -> CommandParser:
    """Return the parser of the whole command line, each command with one of its own."""
    parser = CommandParser(
        prog="spin-trl",
        description="Self-play fine-tuning for TRL.",
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=ShowVersions, nargs=0, help="show the versions of what is installed, and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
