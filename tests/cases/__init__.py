"""User inputs on which this project, or a similar one, once failed, each with the right outcome.

A test plays a case's own input in its smallest form, and its docstring names the class of public bug reports that the
case belongs to. The list of cases is in `test_every_case.py`.
"""
