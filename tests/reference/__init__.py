"""Writes the documents generated from the code (`make reference`). The tests in this folder compare them with the code."""
