"""Everything of a run, on disk: its directory, settings, journal, checkpoints, and whose the files are."""
