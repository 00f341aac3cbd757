"""The command `spin-trl`: a module a command. Its `add` describes the arguments, its other function runs it."""

from .entry import main

__all__ = ["main"]
