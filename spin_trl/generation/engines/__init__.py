"""Engines, one module each, named as in the setting `engine`. Those that need the model in memory have an `ENGINE`."""
