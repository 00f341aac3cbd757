"""A fuzzer of what users bring: `make fuzz`.

Every input is made from a number, its seed, and given to the command `spin-trl` in a separate process. For every input, the
command takes it or says what is wrong with it: no traceback, no hang, no memory without end.

`inputs` lists the kinds of inputs, each of which has a module; `judge` runs the command and says what came of it.
"""
