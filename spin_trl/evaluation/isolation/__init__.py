"""A room for code that a model has written: a process of its own, behind layers of isolation that the kernel enforces.

[`room`] and [`probe`] run in this process. The other modules also run inside, as the package `isolation`, in an interpreter
that imports nothing else of this package: they may import the standard library and each other, and nothing above.
"""
