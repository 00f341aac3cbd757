"""The `spin-trl` command line: parses it and runs the command. A user's mistake gives a message, not a traceback.

Exit codes: 0 success, 2 bad input, 1 failure, 130 interrupted. `failures` maps errors to exit codes. Without a command, the
help is printed on stderr, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Sequence

from ..config.credentials import refuse_in_arguments
from ..config.early import refuse_early
from ..report.terminal import accept_every_character, show_log_records_plainly
from ..run.recipe_file import find_recipe
from . import (
    benchmarks,
    compare,
    completion,
    fetch,
    hub,
    init,
    pairs,
    plan,
    preview,
    recipes,
    report,
    review,
    run,
    settings,
)
from .commands import RECIPES, SETTINGS, CommandParser
from .failures import fail, flushed, note_run_directory
from .versions import ShowVersions

_COMMANDS = (
    init,
    preview,
    run,
    plan,
    compare,
    benchmarks,
    pairs,
    report,
    review,
    hub,
    recipes,
    fetch,
    settings,
    completion,
)


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: command-line arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    if arguments is None:
        _restart_in_utf8()
    accept_every_character()
    show_log_records_plainly()
    parser = command_parser()
    try:
        # Inside the try: it may print the help into a pipe that has been closed.
        options, overrides = parser.parse_known_args(arguments)
        refuse_in_arguments(overrides)
        if options.command is None and not overrides:
            parser.print_help(sys.stderr)
            return 2
        of_command, takes_settings = getattr(options, "parser", parser), getattr(options, "takes_settings", False)
        if overrides and not takes_settings:
            of_command.refuse_unknown(overrides)
        note_run_directory(getattr(options, "run", None) or getattr(options, "recipe", None))
        if takes_settings and hasattr(options, "recipe"):  # those of an existing run are checked with it
            known = settings.installed_settings()
            refuse_early(find_recipe(options.recipe), overrides, known, of_command.own_options())
        options.function(options, overrides)
        return flushed(0) if arguments is None else 0
    except SystemExit:  # from argparse
        raise
    except BaseException as error:  # interrupts and Rust panics are not subclasses of `Exception`
        return fail(error)


def _restart_in_utf8() -> None:
    """Restart this command in Python's UTF-8 mode if file names are encoded as ASCII (`LC_ALL=C` with `PYTHONUTF8=0`).

    Otherwise neither a recipe nor the processes that a command starts could use file names that are not ASCII. Other
    encodings can represent the names of the files on disk, so they are left alone. Output stays in the terminal's encoding.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name != "ascii" or "utf8" in sys._xoptions:
        return
    # An empty value counts as unset.
    os.environ["PYTHONIOENCODING"] = os.environ.get("PYTHONIOENCODING") or f"{sys.stdout.encoding}:replace"
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def command_parser() -> CommandParser:
    """Return the parser of the whole command line, with a subparser for each command."""
    parser = CommandParser(
        prog="spin-trl",
        description="Self-play fine-tuning for TRL.",
        epilog=RECIPES + SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=ShowVersions, nargs=0, help="show the installed versions, and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
