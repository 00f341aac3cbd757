"""Runs code that a model has written in a separate process, behind layers of isolation that the kernel enforces.

[`room`] and [`probe`] run in this process. The other modules also run inside, as the package `isolation`, in an interpreter
that imports nothing else of this package: they may import the standard library and each other, and nothing above.
"""
