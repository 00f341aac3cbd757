"""Acts, named as the commands are: the loop, its phases, the gate, comparisons. Phases share the run directory alone."""
