"""`docs/reference/errors.md`: exceptions, and the exit codes of the command."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import spin_trl
from reference.markdown import WRITTEN, code, escaped, table
from spin_trl.cli.failures import SHOWS_TRACEBACK
from spin_trl.cli.interrupts import INTERRUPTED
from spin_trl.errors import SpinError

HEAD = """\
# Errors and exit codes

A message names the file, row or setting that is wrong, and how to fix it. The command prints it without a traceback and
exits with one of these codes:

"""

EXIT_CODES = {
    0: "done",
    1: "a failure: a full disk, a phase that failed, training that diverged, a run that does not fit the GPU. Finished "
    "work is kept; the same command resumes",
    2: "input that has to change: a recipe, an option, a dataset, a run directory, a path",
    INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or SIGHUP. Finished work is kept",
}

REST = f"""
An unexpected error also gives exit code 1. The message names the exception and where it was raised, and the traceback
is written to `traceback.txt` in the run directory. `{SHOWS_TRACEBACK}=1` shows the traceback of every error.

## Exceptions

Exceptions are in `spin_trl.errors`, unless the table names another module, and all of them are subclasses of `SpinError`.
Each is also a subclass of the standard exception that it replaces, so `except ValueError` still works.

"""


def exceptions() -> Iterator[type[SpinError]]:
    """Return every exception of the package, base classes first."""
    for module in pkgutil.walk_packages(spin_trl.__path__, "spin_trl."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)  # a class is known once its module has been imported
    waiting: list[type[SpinError]] = [SpinError]
    while waiting:
        kind = waiting.pop(0)
        yield kind
        waiting = kind.__subclasses__() + waiting


def page() -> str:
    rows = [row(kind) for kind in exceptions() if kind.__module__.startswith("spin_trl.")]
    codes = table(["code", "meaning"], ([str(code), meaning] for code, meaning in EXIT_CODES.items()))
    return f"{WRITTEN}{HEAD}{codes}{REST}{table(['exception', 'is also', 'exit code', 'meaning'], rows)}"


def row(kind: type[SpinError]) -> list[str]:
    also = [base.__name__ for base in kind.__mro__[1:] if base not in (object, BaseException, Exception, SpinError)]
    where = "" if kind.__module__ == SpinError.__module__ else f" From `{kind.__module__}`."
    meaning = escaped(said(kind), in_table=True) + where
    return [code(kind.__name__), code(*also) if also else "", str(kind.exit_code), meaning]


def said(kind: type[SpinError]) -> str:
    """Return the first paragraph of its docstring."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
