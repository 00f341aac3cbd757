"""Inputs of users on which this project, or a neighbour of it, failed once, each with the right outcome.

A test plays a case's own input in its smallest form, and its docstring names the class of public bug reports that the case
belongs to. The list of cases is in `test_every_case.py`.
"""
