"""Writes what is written from the code: `make reference`. The tests in this folder compare it with the code."""
