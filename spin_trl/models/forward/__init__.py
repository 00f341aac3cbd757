"""Run one forward over the unique tokens of a batch: their layout, their attention, and the positions that are scored."""
