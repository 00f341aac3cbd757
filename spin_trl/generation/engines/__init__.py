"""Engines, one module each: named as in the setting `engine`, with the engine's class as `ENGINE`."""
