"""A fuzzer of user input: `make fuzz`.

Every input is generated from a number, its seed, and given to the command `spin-trl` in a separate process. The
command has to accept it or say what is wrong with it, without a traceback, a hang or unlimited memory.

`inputs` lists the kinds of inputs, each of which has a module; `judge` runs the command and judges the outcome.
"""
