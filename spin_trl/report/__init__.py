"""What a run found, for people: a table in the terminal, and a plot."""
