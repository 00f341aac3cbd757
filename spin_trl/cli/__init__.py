"""The `spin-trl` command: one module per subcommand. Its `add` defines the arguments, its other function runs it."""

from .entry import main

__all__ = ["main"]
