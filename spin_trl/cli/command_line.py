"""The `spin-trl` command: a whole run, or one of its phases. No traceback for a user's mistake.

Exit codes: 0 done, 2 bad input, 1 a failure, 130 an interrupt.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ..config.credentials import refuse_in_arguments
from ..errors import SpinError
from ..report.terminal import accept_every_character, printable, show_log_records_plainly
from . import benchmarks, compare, hub, plan, recipes, report, run
from .commands import RECIPES

INTERRUPTED = 130

_COMMANDS = (run, plan, compare, benchmarks, report, hub, recipes)


def main(arguments: Sequence[str] | None = None) -> int:
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
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    # A scheduler's SIGTERM ends a run the way Ctrl-C does: what is finished is kept.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        refuse_in_arguments(overrides)
        if overrides and not options.takes_settings:
            parser.error(printable(f"unrecognized arguments: {' '.join(overrides)}"))
        options.function(options, overrides)
        return 0
    except SpinError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("Interrupted. What was finished is kept; the same command goes on from there.", INTERRUPTED)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename is not None:
            return _fail(f"This user may not do that: {error}. Choose another folder, or change its permissions.", 2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _fail(
            f"The disk is full ({error}). What was finished is kept: make room, or set `keep_iterations`, and run the same "
            "command again.",
            1,
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spin-trl",
        description="Self-play fine-tuning for TRL.",
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    # Of several processes any one may be the only one that fails, and then nobody else knows why.
    process = os.environ.get("RANK", "0")
    print(f"spin-trl{'' if process == '0' else f' (process {process})'}: {printable(message)}", file=sys.stderr)
    return code
