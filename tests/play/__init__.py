"""Tests of the loop: whole runs of the tiny model, phase by phase, interrupted, resumed, and launched in several ways."""
