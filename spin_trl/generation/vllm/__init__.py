"""vLLM servers that belong to a run: their flags and environment, and starting, watching and ending their processes.

vLLM is a command and is never imported: its versions of torch and transformers seldom fit this environment's.
"""
