"""Find the function named by `module:function`: a scorer, or a user's dataset."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, message_of


def resolve_function(name: str) -> Callable[..., Any]:
    """Import the function named by `module:function`. Installed modules take precedence over those in the current folder.

    Args:
        name: name like `package.module:function` or `module:Class.method`.

    Raises:
        DataError: if there is no such module or function, or the module can't be imported; the message gives the reason.
    """
    module_name, colon, path = name.partition(":")
    is_file = module_name.endswith(".py")
    if not colon or is_file or not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        meant = _as_module(module_name, path)
        raise DataError(f"{name!r} is not a function that can be imported: expected `module:function`.{meant}")
    folder = Path.cwd()
    try:
        with folder_last(folder):
            module = importlib.import_module(module_name)
            function = functools.reduce(getattr, path.split("."), module)
    except (Exception, SystemExit) as error:  # a script that parses arguments, or any error in user code
        hint = _hint_on_missing(module_name, error)
        if hint is None:
            raise _broken(name, error) from error
        raise DataError(f"{name!r} is not a function that can be imported: {error}.{hint}") from error
    if not callable(function):
        raise DataError(f"{name!r} is not a function, but of type {type(function).__name__}.")
    is_here = Path(getattr(module, "__file__", None) or "/").is_relative_to(folder)
    # A function from this folder may import modules next to it when it is called, possibly from another folder.
    return folder_last(folder)(function) if is_here else function


@contextlib.contextmanager
def folder_last(folder: Path) -> Iterator[None]:
    """Allow imports of modules in a folder, with lower precedence than installed modules.

    Python would put the folder first, where a user's `json.py` or `datasets` folder would shadow modules that the libraries
    import. Writing bytecode is turned off, so no `__pycache__` is left next to the user's files.
    """
    place, writes_nothing = str(folder), sys.dont_write_bytecode
    sys.path.append(place)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()  # the module may be newer than the cached listing of its folder
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_nothing
        if place in sys.path:  # the imported module may have modified the path
            del sys.path[-1 - sys.path[::-1].index(place)]


def place_of(error: BaseException) -> str:
    """Return the location in user code where an error was raised, like ` (scores.py, line 3)`."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    theirs = [frame for frame in frames if not frame.filename.startswith("<") and _is_theirs(frame.filename)]
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""


def _is_theirs(filename: str) -> bool:
    installed = [Path(sysconfig.get_paths()[kind]) for kind in ("stdlib", "purelib", "platlib")]
    return not any(Path(filename).is_relative_to(folder) for folder in (Path(__file__).parents[1], *installed))


def _hint_on_missing(module_name: str, error: BaseException) -> str | None:
    """Return a hint for a missing module or function; None if the error was raised by the module's own code."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        return f" Modules are searched for among installed packages and in {Path.cwd()}."
    if isinstance(error, AttributeError) and module_name in sys.modules:
        return _shadowed(module_name, sys.modules[module_name])
    return None


def _broken(name: str, error: BaseException) -> DataError:
    """Return the error for a module that can't be imported."""
    reason = f"{type(error).__name__}: {message_of(error)}"
    if isinstance(error, SystemExit):
        reason = f'it ends the process ({reason}). Code of a script belongs under `if __name__ == "__main__":`'
    return DataError(f"The module of {name!r} can't be imported: {reason}{place_of(error)}")


def _as_module(module_name: str, path: str) -> str:
    """Return a hint with the module's name, for a user who has given the path of a file."""
    meant = Path(module_name.removesuffix(".py"))
    if meant.parts and all(
        part.isidentifier() for part in (*meant.parts, path)
    ):  # the root of a path is not an identifier
        return f" Name a file like a module: '{'.'.join(meant.parts)}:{path}'."
    return ""


def _shadowed(module_name: str, module: Any) -> str:
    """Return a hint about a file in the current folder that is shadowed by an installed module of the same name."""
    local = Path(*module_name.split("."))
    found = Path(getattr(module, "__file__", None) or "/")
    for candidate in (local.with_suffix(".py"), local / "__init__.py"):
        if candidate.is_file() and candidate.resolve() != found.resolve():
            return f" The module is {found}, which takes precedence over {candidate} in this folder: rename that file."
    return ""
