"""The command `spin-trl`: a module a command. Its `add` describes the arguments, its other function runs it."""

from .command_line import main

__all__ = ["main"]
