"""The commands' implementations: the loop, its phases, the gate, and comparisons. Phases communicate only through the run
directory."""
