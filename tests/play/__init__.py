"""The loop: whole runs of the tiny model, phase by phase, interrupted, continued, and launched in several ways."""
