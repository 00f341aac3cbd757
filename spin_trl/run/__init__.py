"""A run on disk: its directory, settings, journal and checkpoints, and the ownership of its files."""
