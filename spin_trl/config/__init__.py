"""Recipes and their settings: those of an iteration, the loop and the data, and the checks that refuse bad values."""
