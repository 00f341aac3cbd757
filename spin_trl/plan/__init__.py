"""Estimates what a run will need before it starts: memory, tokens, hours and disk."""
