"""Evaluation of iterations: figures on held-out prompts."""
