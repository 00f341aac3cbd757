"""Scorers, one module each, with a function of the same name; `NAMED_SCORES` lists its named numbers, if it returns any."""

# Recipes and the frozen settings of runs of 0.1.0 may name these as `spin_trl.evaluation.scorers:gsm8k`.
from .exact_match import exact_match
from .gsm8k import gsm8k
from .json import json as valid_json

__all__ = ["exact_match", "gsm8k", "valid_json"]
